package idle

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/bench/lan"
	"github.com/muster-edge/muster/e2e/bench/peer"
)

func TestMeanAndWorst(t *testing.T) {
	require.InDelta(t, 2, Mean([]float64{1, 2, 3}), 1e-9)
	require.InDelta(t, 3, Worst([]float64{1, 3, 2}), 1e-9)
	require.Zero(t, Mean(nil))
	require.Zero(t, Worst(nil))
}

func TestRateIsOverTheTimeThatPassedBetweenTheTwoReadings(t *testing.T) {
	at := time.Unix(0, 0)
	require.InDelta(t, 250, rate(reading{1000, at}, reading{1500, at.Add(2 * time.Second)}), 1e-9)
}

// sleepers is a peer of two nodes that do nothing, on a real LAN.
type sleepers struct {
	lan       *lan.LAN
	processes []*lan.Process
}

func (*sleepers) Name() string                                        { return "sleepers" }
func (*sleepers) Start(context.Context, int) error                    { return nil }
func (*sleepers) Join(context.Context) (peer.Joined, error)           { return peer.Joined{}, nil }
func (*sleepers) Command(context.Context, int, ...string) *exec.Cmd   { return nil }
func (*sleepers) Stop() error                                         { return nil }
func (*sleepers) Goroutines(_ context.Context, node int) (int, error) { return 10 * node, nil }
func (s *sleepers) Process(_ context.Context, node int) (int, error) {
	return s.processes[node-1].PID(), nil
}

func TestMeasureSeesTheTrafficOfTheUnderlayAndTheAgentsMemory(t *testing.T) {
	network, err := lan.New(t.Context(), "idletest", 2)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, network.Close()) })
	s := &sleepers{lan: network}
	for i := 1; i <= 2; i++ {
		process, err := lan.Start("pinger", network.Node(i).Command(t.Context(),
			"ping", "-q", "-i", "0.01", "-s", "1000", network.Node(3-i).Address().String()), filepath.Join(t.TempDir(), "log"))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, process.Stop()) })
		s.processes = append(s.processes, process)
	}
	result, err := Measure(t.Context(), s, 2, Options{Settle: 100 * time.Millisecond, Window: time.Second})
	require.NoError(t, err)
	require.Len(t, result.BytesPerSecond, 2)
	for node := range 2 {
		require.Greater(t, result.BytesPerSecond[node], 4000.0, "both ends ping, each ping is answered")
		require.Positive(t, result.RSS[node])
		require.LessOrEqual(t, result.RSS[node], result.PeakRSS[node])
	}
	require.Equal(t, []float64{10, 20}, result.Goroutines)
}

func TestPeerWithoutProcessHasNoIdleCost(t *testing.T) {
	_, err := Measure(t.Context(), peer.NewVeth(t.TempDir()), 1, Options{})
	require.ErrorIs(t, err, peer.ErrNoProcess)
}
