package peer

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func golden(t testing.TB, name string) []byte {
	content, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return content
}

// lab is a Muster whose binary is testdata/fake-muster, in a folder where the test can steer it.
type lab struct {
	*Muster
	here string
}

const twoNodes = `[{"node": "n1", "role": "master", "address": "10.1.0.1", "agent_pid": 41},
	{"node": "n2", "role": "worker", "address": "10.1.0.2", "agent_pid": 42}]`

func newLab(t *testing.T) lab {
	here := t.TempDir()
	l := lab{NewMuster(filepath.Join(here, "muster"), filepath.Join(t.TempDir(), "run")), here}
	require.NoError(t, os.WriteFile(l.bin, golden(t, "fake-muster"), 0o700))
	l.put(t, "timeline.json", string(golden(t, "timeline.json")))
	l.put(t, "metrics.txt", string(golden(t, "metrics.txt")))
	l.put(t, "status.json", twoNodes)
	return l
}

func (l lab) put(t *testing.T, name, content string) {
	require.NoError(t, os.WriteFile(filepath.Join(l.here, name), []byte(content), 0o600))
}

func TestMusterIsDrivenThroughItsLab(t *testing.T) {
	m := newLab(t)
	require.NoError(t, m.Start(t.Context(), 2))
	joined, err := m.Join(t.Context())
	require.NoError(t, err)
	require.Equal(t, Joined{
		Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")},
		Took:      3250 * time.Millisecond,
	}, joined)

	agent, err := m.Process(t.Context(), 2)
	require.NoError(t, err)
	require.Equal(t, 42, agent)
	goroutines, err := m.Goroutines(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, 147, goroutines)
	printed, err := m.Command(t.Context(), 2, "ping", "-c", "1").Output()
	require.NoError(t, err)
	require.Equal(t, "n2: ping -c 1\n", string(printed))

	require.NoError(t, m.Stop())
	require.NoDirExists(t, m.dir)
	require.NoError(t, m.Stop(), "stopping twice is harmless")
}

func TestMusterSaysWhyItsLabDidNotComeUp(t *testing.T) {
	m := newLab(t)
	m.put(t, "fail-up", "")
	require.NoError(t, m.Start(t.Context(), 2))
	_, err := m.Join(t.Context())
	require.EqualError(t, err, "muster lab up: exit status 1: no bridge")
	require.NoError(t, m.Stop())
	require.NoDirExists(t, m.dir)
}

func TestMusterThatIsCalledOffTakesItsLabDown(t *testing.T) {
	m := newLab(t)
	m.put(t, "hang-up", "")
	require.NoError(t, m.Start(t.Context(), 2))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := m.Join(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, m.Stop())
	require.NoDirExists(t, m.dir)
}

func TestMusterNodeWithoutARoleIsNotJoined(t *testing.T) {
	m := newLab(t)
	m.put(t, "status.json", `[{"node": "n1", "role": "master", "address": "10.1.0.1"}, {"node": "n2", "address": "10.1.0.2"}]`)
	require.NoError(t, m.Start(t.Context(), 2))
	_, err := m.Join(t.Context())
	require.ErrorContains(t, err, "2 nodes known, without address: [2]")
	_, err = m.Process(t.Context(), 1)
	require.ErrorIs(t, err, ErrNoProcess)
	_, err = m.Process(t.Context(), 3)
	require.ErrorContains(t, err, "knows 2 nodes, not node 3")
	require.NoError(t, m.Stop())
}

func TestLabThatCannotBeTakenDownKeepsItsFolder(t *testing.T) {
	m := newLab(t)
	m.put(t, "fail-down", "")
	require.NoError(t, m.Start(t.Context(), 2))
	_, err := m.Join(t.Context())
	require.NoError(t, err)
	require.ErrorContains(t, m.Stop(), "still mounted")
	require.DirExists(t, m.dir)

	require.NoError(t, os.Remove(filepath.Join(m.here, "fail-down")))
	require.NoError(t, m.Stop())
	require.NoDirExists(t, m.dir)
}

func TestMusterWithoutBinaryIsAnError(t *testing.T) {
	m := NewMuster(filepath.Join(t.TempDir(), "muster"), filepath.Join(t.TempDir(), "run"))
	require.ErrorIs(t, m.Start(t.Context(), 2), os.ErrNotExist)
	require.NoError(t, m.Stop())
}

func TestMusterConfigurationAsksForThreeMastersWhereTheyAre(t *testing.T) {
	require.Equal(t, `#cloud-config
p2p:
  network_token: "token"
  network_id: bench
  disable_dht: true
  minimum_nodes: 10
  auto:
    enable: true
    ha:
      enable: true
      master_nodes: 2 # beside the first: three in all
k3s:
  enabled: false
`, string(musterConfig("token", 10)))
	require.NotContains(t, string(musterConfig("token", 2)), "ha:")
}

func TestLabStatusIsPutInOrder(t *testing.T) {
	nodes, err := parseLabStatus(golden(t, "lab-status.json"))
	require.NoError(t, err)
	require.Equal(t, []labNode{
		{Number: 1, Role: "master/clusterinit", Address: netip.MustParseAddr("10.1.0.1"), Agent: 311},
		{Number: 2},
		{Number: 10, Role: "worker", Address: netip.MustParseAddr("10.1.0.3"), Agent: 320},
	}, nodes)
}

func TestMalformedLabStatusIsRefused(t *testing.T) {
	for content, want := range map[string]string{
		"no lab":                                "parse lab status: invalid character",
		`[{"node": "box"}]`:                     `node is called "box"`,
		`[{"node": "n1", "address": "10.1.0"}]`: "address of n1",
	} {
		_, err := parseLabStatus([]byte(content))
		require.ErrorContains(t, err, want)
	}
}

func TestTimelineWithoutRolesIsRefused(t *testing.T) {
	_, err := parseTimeline([]byte(`{"site": {"seen": 1.4}}`))
	require.ErrorContains(t, err, "does not say when every node had its role")
	_, err = parseTimeline([]byte(`{`))
	require.ErrorContains(t, err, "parse timeline")
}

func TestGaugeIsFoundByItsWholeName(t *testing.T) {
	value, err := parseGauge(golden(t, "metrics.txt"), "go_memstats_alloc_bytes")
	require.NoError(t, err)
	require.InDelta(t, 1.2345e7, value, 1e-9)
	_, err = parseGauge(golden(t, "metrics.txt"), "go_gorout")
	require.EqualError(t, err, "parse metrics: no go_gorout")
	_, err = parseGauge([]byte("go_goroutines many\n"), "go_goroutines")
	require.ErrorContains(t, err, "parse metric go_goroutines")
}

func FuzzParsers(f *testing.F) {
	for _, name := range []string{"lab-status.json", "timeline.json", "metrics.txt"} {
		f.Add(golden(f, name))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		// Whatever the content, each returns a result or an error.
		_, _ = parseLabStatus(content)
		_, _ = parseGauge(content, "go_goroutines")
		if took, err := parseTimeline(content); err == nil {
			require.NotZero(t, took)
		}
	})
}
