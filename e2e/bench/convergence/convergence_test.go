package convergence

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/bench/peer"
)

// queue is a peer whose nodes get their addresses one after another, as EdgeVPN's do.
type queue struct {
	nodes int
	every time.Duration
	began time.Time
	fails error
}

func (*queue) Name() string { return "queue" }
func (q *queue) Start(_ context.Context, nodes int) error {
	q.nodes, q.began = nodes, time.Now()
	return q.fails
}
func (q *queue) Started() (time.Time, error)                     { return q.began, nil }
func (*queue) Command(context.Context, int, ...string) *exec.Cmd { return nil }
func (*queue) Process(context.Context, int) (int, error)         { return 0, peer.ErrNoProcess }
func (*queue) Stop() error                                       { return nil }
func (q *queue) Addresses(context.Context) ([]netip.Addr, error) {
	addresses := make([]netip.Addr, q.nodes)
	for i := range min(q.nodes, int(time.Since(q.began)/q.every)) {
		addresses[i] = netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)})
	}
	return addresses, nil
}

func TestTimeCountsFromTheStartToTheLastNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		result, err := Measure(t.Context(), &queue{every: 9950 * time.Millisecond}, 10)
		require.NoError(t, err)
		require.Equal(t, 99500*time.Millisecond, result.Took)
		require.Len(t, result.Addresses, 10)
	})
}

func TestSiteThatNeverFormsIsGivenUpWithTheNodesThatLack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := Measure(t.Context(), &queue{every: 70 * time.Second}, 4)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "4 nodes known, without address: [3 4]")
	})
}

func TestPeerThatDoesNotStartIsAnError(t *testing.T) {
	broken := errors.New("no bridge")
	_, err := Measure(t.Context(), &queue{fails: broken}, 3)
	require.ErrorIs(t, err, broken)
}
