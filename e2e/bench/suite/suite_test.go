package suite

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/bench/idle"
	"github.com/muster-edge/muster/e2e/bench/report"
	"github.com/muster-edge/muster/e2e/bench/throughput"
)

// bench returns a configuration with peers that need no building and a Muster that is not there.
func bench(t *testing.T) (Config, *bytes.Buffer) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	peers := filepath.Join(dir, "peers")
	for module, path := range map[string]string{
		"edgevpn": "github.com/mudler/edgevpn", "nebula": "github.com/slackhq/nebula", "wireguard": "golang.zx2c4.com/wireguard",
	} {
		require.NoError(t, os.MkdirAll(filepath.Join(peers, module), 0o700))
		for name, content := range map[string]string{
			"go.mod":  "module example.org/" + module + "\n\ngo 1.26.0\n\n// " + path + " v1.2.3\ntool example.org/" + module + "\n",
			"go.sum":  "",
			"main.go": "package main\n\nfunc main() {}\n",
		} {
			require.NoError(t, os.WriteFile(filepath.Join(peers, module, name), []byte(content), 0o600))
		}
	}
	printed := new(bytes.Buffer)
	return Config{
		Muster: filepath.Join(dir, "muster"), Peers: peers, Cache: filepath.Join(dir, "cache"), Out: filepath.Join(dir, "BENCHMARKS.md"),
		Commit: "abc1234", Repeat: "make bench",
		Measurements: Measurements, Contestants: []string{"veth"},
		Nodes: []int{3}, EdgeVPNNodes: []int{3}, IdleNodes: 3,
		Idle:       idle.Options{Window: time.Second},
		Throughput: throughput.Options{Rounds: 1, Length: time.Second, Pings: 10},
		Output:     printed, Log: new(bytes.Buffer),
	}, printed
}

func leftovers(t *testing.T) []string {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "mb-*"))
	require.NoError(t, err)
	return left
}

func TestRunWritesItsTablesAndEndsWithTheBars(t *testing.T) {
	config, printed := bench(t)
	require.NoError(t, Run(t.Context(), config))
	document, err := os.ReadFile(config.Out)
	require.NoError(t, err)
	for _, name := range Measurements {
		require.Contains(t, string(document), "<!-- bench:"+name+":begin -->")
	}
	require.Contains(t, string(document), "Repeat: `make bench`")
	require.Contains(t, string(document), " at abc1234, on ")
	require.Regexp(t, `\| veth +\| [0-9.]+ `, string(document))
	require.True(t, strings.HasSuffix(printed.String(), "\nbench: bars met=0 missed=0\n"), printed.String())
	require.Empty(t, leftovers(t))
}

func TestRunThatCannotMeasureSomethingStillWritesTheRest(t *testing.T) {
	config, printed := bench(t)
	config.Contestants = []string{"veth", "muster"}
	config.Measurements = []string{"throughput", "idle"}
	err := Run(t.Context(), config)
	require.ErrorIs(t, err, ErrIncomplete)
	require.ErrorContains(t, err, "muster: make token")
	document, readErr := os.ReadFile(config.Out)
	require.NoError(t, readErr)
	require.Regexp(t, `\| muster abc1234 +\| not measured `, string(document))
	require.Contains(t, printed.String(), "not measured=2 (TCP ≥ 0.9 of wireguard-go; TCP ≥ 60 × EdgeVPN)")
	require.Empty(t, leftovers(t))
}

func TestRunThatIsCalledOffWritesNothingAndLeavesNothing(t *testing.T) {
	config, printed := bench(t)
	config.Throughput.Length = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	config.Log = writer(func(line string) {
		if strings.Contains(line, "veth: two nodes start") {
			time.AfterFunc(2*time.Second, cancel) // in the middle of the stream
		}
	})
	require.ErrorIs(t, Run(ctx, config), context.Canceled)
	require.NoFileExists(t, config.Out)
	require.Empty(t, printed.String())
	require.Empty(t, leftovers(t))
}

func TestFoldersOfKilledRunsAreSwept(t *testing.T) {
	config, _ := bench(t)
	config.Measurements = nil
	const never = "mb-1073741824-" // above the kernel's largest process ID
	require.NoError(t, os.MkdirAll(filepath.Join(os.TempDir(), never+"1", "muster"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(os.TempDir(), "other"), 0o700))
	require.NoError(t, Run(t.Context(), config))
	require.Empty(t, leftovers(t))
	require.DirExists(t, filepath.Join(os.TempDir(), "other"))
}

func TestSizesAreThoseOfTheMeasurementsThatAreAskedFor(t *testing.T) {
	for want, measurements := range map[int][]string{4: {"convergence", "idle"}, 3: {"convergence"}, 1: {"idle"}} {
		s := &session{Config: Config{Measurements: measurements, IdleNodes: 10}}
		require.Len(t, s.sizes([]int{20, 3, 5}), want)
		require.IsIncreasing(t, append([]int{0}, s.sizes([]int{20, 3, 5})...))
	}
}

func TestPseudoVersionIsShortened(t *testing.T) {
	require.Equal(t, "ecfc5a8d5446", short("v0.0.0-20260522210424-ecfc5a8d5446"))
	require.Equal(t, "v1.10.3", short("v1.10.3"))
	require.Equal(t, "v1.0.0-rc1", short("v1.0.0-rc1"))
}

func TestSummaryNamesWhatWasMissed(t *testing.T) {
	bars := []report.Bar{{Name: "a", Verdict: report.Pass}, {Name: "b", Verdict: report.Fail}, {Name: "c", Verdict: report.NotMeasured}}
	require.Equal(t, "bench: bars met=1 missed=1 (b) not measured=1 (c)", summary([]section{{bars: bars[:2]}, {bars: bars[2:]}}))
}

type writer func(string)

func (w writer) Write(p []byte) (int, error) {
	w(string(p))
	return len(p), nil
}
