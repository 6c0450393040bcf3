package boot

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

// A file in testdata/plan is a command line, the devices and the layout files, then `----` and the plan or the error.
func TestPlansAreWhatTheFilesSay(t *testing.T) {
	files, err := filepath.Glob("testdata/plan/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(name)
			require.NoError(t, err)
			given, expected, _ := strings.Cut(string(data), "----\n")
			got := planText(readInput(t, given))
			if *update {
				require.NoError(t, os.WriteFile(name, []byte(given+"----\n"+got), 0o644))
				return
			}
			require.Equal(t, expected, got)
		})
	}
}

func readInput(t *testing.T, text string) Input {
	t.Helper()
	in := Input{Devices: map[string]string{}, Layout: make([][]byte, len(LayoutFiles))}
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		kind, rest, _ := strings.Cut(line, ": ")
		switch i := slices.Index(LayoutFiles, kind); {
		case i >= 0:
			in.Layout[i] = append(in.Layout[i], rest+"\n"...)
		case kind == "cmdline":
			in.CommandLine = rest
		case kind == "device":
			device, label, _ := strings.Cut(rest, " ")
			in.Devices[label] = device
		default:
			require.Fail(t, "what is this line", line)
		}
	}
	return in
}

func planText(in Input) string {
	steps, err := Plan(in)
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

func input(layout ...[]byte) Input {
	return Input{
		CommandLine: "root=LABEL=COS_STATE cos-img/filename=/cOS/active.img muster.slot=active",
		Layout:      layout,
		Devices:     map[string]string{"COS_STATE": "/dev/vda5", "COS_OEM": "/dev/vda3", "COS_PERSISTENT": "/dev/vda6"},
	}
}

func TestNoLayoutChangesTheStepsBeforeIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var layout [][]byte
		for range LayoutFiles {
			layout = append(layout, []byte(drawLayout(t)))
		}
		before, err := Plan(input())
		require.NoError(t, err)
		after, err := Plan(input(layout...))
		require.NoError(t, err)
		stage := slices.IndexFunc(before, func(s Step) bool { return s.Op == OpStage })
		require.Equal(t, before[:stage+1], after[:stage+1])
	})
}

func TestNoLayoutMountsOverWhatTheBootNeeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps, err := Plan(input([]byte(drawLayout(t)), []byte(drawLayout(t))))
		require.NoError(t, err)
		stage := slices.IndexFunc(steps, func(s Step) bool { return s.Op == OpStage })
		var mounted []string
		for _, s := range steps[stage+1:] {
			if s.Op != OpBind && s.Op != OpOverlay && s.Op != OpMount || s.Target == overlayBase || s.Target == sysroot+"/tmp" {
				continue
			}
			require.True(t, strings.HasPrefix(s.Target, sysroot+"/"), s.String())
			require.NotContains(t, strings.Split(s.Target, "/"), "..")
			for _, r := range reserved {
				require.False(t, within(s.Target, sysroot+r), s.String())
			}
			require.NotContains(t, mounted, s.Target, "mounted twice")
			mounted = append(mounted, s.Target)
		}
		for _, p := range requiredPaths {
			require.Contains(t, mounted, sysroot+p)
		}
		require.Contains(t, mounted, sysroot+pathPersistent)
	})
}

func drawLayout(t *rapid.T) string {
	p := rapid.SampledFrom([]string{
		"/var", "/etc", "/etc/mine", "/var/lib/rancher", "/usr/local", "/usr/local/.state", "/usr", "/", "relative", "/a/../b", "/run/x", "/oem",
		"/opt", "/home/", "/data", "/data/in", "/proc", "/var/lib/a-b", "/var/lib/a/b", "/sysroot", "/tmp",
	})
	paths := rapid.Map(rapid.SliceOfN(p, 0, 6), func(s []string) string { return strings.Join(s, " ") })
	key := rapid.SampledFrom([]string{
		"RW_PATHS", "PERSISTENT_STATE_PATHS", "CUSTOM_BIND_MOUNTS", "CUSTOM_EPHEMERAL_MOUNTS", "PERSISTENT_STATE_TARGET", "OVERLAY",
	})
	var b strings.Builder
	for range rapid.IntRange(0, 4).Draw(t, "lines") {
		fmt.Fprintf(&b, "%s=%q\n", key.Draw(t, "key"), paths.Draw(t, "paths"))
	}
	if rapid.Bool().Draw(t, "volumes") {
		fmt.Fprintf(&b, "VOLUMES=LABEL=%s:%s\n", rapid.SampledFrom([]string{"COS_OEM", "COS_PERSISTENT", "DATA"}).Draw(t, "label"), p.Draw(t, "path"))
	}
	return b.String()
}

func TestALayoutFileIsReadAsAShellWould(t *testing.T) {
	env, err := ParseEnv([]byte("# comment\nA=b\nexport B=\"c d\"\n\nC='e # f' # g\nD=\n"))
	require.NoError(t, err)
	require.Equal(t, map[string]string{"A": "b", "B": "c d", "C": "e # f", "D": ""}, env)
}

func TestABadLineOfALayoutFileCostsOnlyItself(t *testing.T) {
	env, err := ParseEnv([]byte("A=b\nnonsense\nB=\"open\nC=d\n$(rm)=x\n"))
	require.ErrorContains(t, err, "line 2, 3, 5")
	require.Equal(t, map[string]string{"A": "b", "C": "d"}, env)
}

func TestOverlaySizes(t *testing.T) {
	for given, expected := range map[string]string{
		"tmpfs:40%": "40%", "2G": "2G", "tmpfs:512m": "512m", "1048576": "1048576", "tmpfs:0": "25%", "tmpfs:-1": "25%", "x": "25%",
		"10%,mode=0777": "25%", "5%%": "25%", "LABEL=X": "25%",
	} {
		l := NewLayout([][]byte{[]byte("OVERLAY=" + given)})
		require.Equal(t, expected, l.Overlay, given)
		require.Equal(t, expected == "25%", len(l.Problems) == 1, given)
	}
}

func FuzzParseEnv(f *testing.F) {
	f.Add([]byte("A=b\nexport B=\"c d\" # e\n'=\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		env, _ := ParseEnv(data)
		for key := range env {
			require.NotEmpty(t, key)
		}
		_, err := Plan(input(data, data, data))
		require.NoError(t, err)
	})
}
