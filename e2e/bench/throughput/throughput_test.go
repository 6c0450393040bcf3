package throughput

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/bench/peer"
)

func golden(t testing.TB, name string) []byte {
	content, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return content
}

func TestIperf3CountsWhatWasReceived(t *testing.T) {
	speed, err := parseIperf3(golden(t, "iperf3.json"))
	require.NoError(t, err)
	require.InDelta(t, 9460187313.56177, speed, 1)
}

func TestIperf3FailureIsAnError(t *testing.T) {
	_, err := parseIperf3(golden(t, "iperf3-refused.json"))
	require.EqualError(t, err, "iperf3: unable to connect to server: Connection refused")
	_, err = parseIperf3([]byte(`{"end": {}}`))
	require.ErrorContains(t, err, "nothing was received")
	_, err = parseIperf3([]byte(`{"end": {"sum_received": {"bits_per_second": 0}}}`))
	require.ErrorContains(t, err, "nothing was received")
	_, err = parseIperf3([]byte("iperf3: error"))
	require.ErrorContains(t, err, "parse iperf3 report")
}

func TestPingSummary(t *testing.T) {
	latency, err := parsePing(golden(t, "ping.txt"))
	require.NoError(t, err)
	require.Equal(t, Latency{Min: 30 * time.Microsecond, Avg: 41 * time.Microsecond, Max: 107 * time.Microsecond}, latency)
}

func TestPingTellsLoss(t *testing.T) {
	latency, err := parsePing([]byte("3 packets transmitted, 2 received, 33.3333% packet loss, time 4ms\nrtt min/avg/max/mdev = 1.000/2.000/3.000/0.100 ms\n"))
	require.NoError(t, err)
	require.InDelta(t, 33.3333, latency.Lost, 1e-9)
	require.Equal(t, 2*time.Millisecond, latency.Avg)
}

func TestPingWithoutAnAnswerIsAnError(t *testing.T) {
	_, err := parsePing(golden(t, "ping-lost.txt"))
	require.ErrorContains(t, err, "no figures")
}

func TestMedian(t *testing.T) {
	for want, figures := range map[float64][]float64{
		0:   nil,
		1:   {1},
		1.5: {2, 1},
		2:   {3, 1, 2},
	} {
		before := slices.Clone(figures)
		require.InDelta(t, want, Result{Streams: figures}.Speed(), 0)
		require.Equal(t, before, figures, "the order of the rounds is kept")
	}
}

func TestRepeatStopsAtTheFirstSuccess(t *testing.T) {
	tries := 0
	figure, err := repeat(t.Context(), 3, func() (float64, error) {
		tries++
		if tries < 2 {
			return 0, errors.New("control connection lost")
		}
		return 7, nil
	})
	require.NoError(t, err)
	require.InDelta(t, 7, figure, 0)
	require.Equal(t, 2, tries)
}

func TestRepeatGivesUpWithEveryReason(t *testing.T) {
	tries := 0
	_, err := repeat(t.Context(), 3, func() (float64, error) {
		tries++
		return 0, fmt.Errorf("failure %d", tries)
	})
	require.EqualError(t, err, "failure 1\nfailure 2\nfailure 3")
}

func TestRepeatEndsWhenCalledOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	_, err := repeat(ctx, 3, func() (float64, error) {
		tries++
		cancel()
		return 0, ctx.Err()
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, tries)
}

// stage is a peer whose nodes are shell scripts in place of iperf3 and ping.
type stage struct {
	server, client, ping string
	stopped              bool
}

func working() *stage {
	return &stage{server: "echo Server listening on 5201", client: "cat testdata/iperf3.json", ping: "cat testdata/ping.txt"}
}

func (*stage) Name() string                              { return "stage" }
func (*stage) Start(context.Context, int) error          { return nil }
func (*stage) Process(context.Context, int) (int, error) { return 0, peer.ErrNoProcess }
func (s *stage) Stop() error                             { s.stopped = true; return nil }
func (s *stage) Join(context.Context) (peer.Joined, error) {
	return peer.Joined{Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")}}, nil
}

func (s *stage) Command(ctx context.Context, node int, argv ...string) *exec.Cmd {
	script := s.client
	switch {
	case argv[0] == "ping":
		script = s.ping
	case node == 2:
		script = s.server
	}
	return exec.CommandContext(ctx, "sh", "-c", "exec 2>/dev/null; "+script)
}

func TestMeasureTakesEveryRoundAndStopsThePeers(t *testing.T) {
	one, other := working(), working()
	var told []string
	outcomes := Measure(t.Context(), []peer.Peer{one, other}, Options{Rounds: 3, Length: time.Second, Pings: 20}, func(format string, args ...any) {
		told = append(told, fmt.Sprintf(format, args...))
	})
	require.Len(t, outcomes, 2)
	for _, outcome := range outcomes {
		require.NoError(t, outcome.Err)
		require.Len(t, outcome.Result.Streams, 3)
		require.Equal(t, 41*time.Microsecond, outcome.Result.Latency().Avg)
	}
	require.Len(t, told, 2+2*3)
	require.True(t, one.stopped)
	require.True(t, other.stopped)
}

func TestPeerThatFailsDropsOutAndIsStopped(t *testing.T) {
	broken, fine := &stage{server: "exit 1", client: "exit 1", ping: "cat testdata/ping.txt"}, working()
	outcomes := Measure(t.Context(), []peer.Peer{broken, fine}, Options{Rounds: 2, Length: time.Second, Pings: 20}, func(string, ...any) {})
	require.ErrorContains(t, outcomes[0].Err, "stage: measure throughput: start iperf3 server: it ended before it listened")
	require.NoError(t, outcomes[1].Err)
	require.Len(t, outcomes[1].Result.Streams, 2)
	require.True(t, broken.stopped)
	require.True(t, fine.stopped)
}

func TestMeasurementThatIsCalledOffStopsThePeers(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := working()
	outcomes := Measure(ctx, []peer.Peer{s}, Options{Rounds: 1, Length: time.Second, Pings: 20, Settle: time.Hour}, func(string, ...any) { cancel() })
	require.ErrorIs(t, outcomes[0].Err, context.Canceled)
	require.True(t, s.stopped)
}

func TestLatencyIsThatOfTheMiddleRound(t *testing.T) {
	require.Zero(t, Result{}.Latency())
	r := Result{Pings: []Latency{{Avg: 3, Max: 30}, {Avg: 1, Max: 10}, {Avg: 2, Max: 20}}}
	require.Equal(t, Latency{Avg: 2, Max: 20}, r.Latency())
}

func TestServerThatWaitsForEverIsEndedWithTheRun(t *testing.T) {
	s := &stage{server: "echo Server listening on 5201; exec sleep 3600", client: "echo no route; exit 1"}
	_, err := stream(t.Context(), s, netip.MustParseAddr("10.1.0.2"), time.Second)
	require.ErrorContains(t, err, "no route")
}

func FuzzParsers(f *testing.F) {
	for _, name := range []string{"iperf3.json", "iperf3-refused.json", "ping.txt", "ping-lost.txt"} {
		f.Add(golden(f, name))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if speed, err := parseIperf3(content); err == nil {
			require.Positive(t, speed)
		}
		_, _ = parsePing(content)
	})
}
