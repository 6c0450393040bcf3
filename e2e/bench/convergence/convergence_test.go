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

// queue is a peer whose nodes get their places one after another, as EdgeVPN's do.
type queue struct {
	every  time.Duration
	broken error
	lost   int // nodes that never show up

	nodes int
}

func (*queue) Name() string                                      { return "queue" }
func (*queue) Command(context.Context, int, ...string) *exec.Cmd { return nil }
func (*queue) Process(context.Context, int) (int, error)         { return 0, peer.ErrNoProcess }
func (*queue) Stop() error                                       { return nil }

func (q *queue) Start(_ context.Context, nodes int) error {
	q.nodes = nodes
	return q.broken
}

func (q *queue) Join(ctx context.Context) (peer.Joined, error) {
	took := time.Duration(q.nodes) * q.every
	select {
	case <-ctx.Done():
		return peer.Joined{}, context.Cause(ctx)
	case <-time.After(took):
		return peer.Joined{Addresses: make([]netip.Addr, q.nodes-q.lost), Took: took}, nil
	}
}

func TestSiteMayTakeAsLongAsEdgeVPNDoes(t *testing.T) {
	for nodes, want := range map[int]time.Duration{3: 30 * time.Second, 20: 200 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			took, err := Measure(t.Context(), &queue{every: 10 * time.Second}, nodes)
			require.NoError(t, err)
			require.Equal(t, want, took)
		})
	}
}

func TestSiteThatNeverFormsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := Measure(t.Context(), &queue{every: time.Hour}, 4)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 3*time.Minute, time.Since(began))
	})
}

func TestPeerThatDoesNotStartIsAnError(t *testing.T) {
	broken := errors.New("no bridge")
	_, err := Measure(t.Context(), &queue{broken: broken}, 3)
	require.ErrorIs(t, err, broken)
}

func TestSiteThatLostANodeIsNotMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := Measure(t.Context(), &queue{every: time.Second, lost: 1}, 3)
		require.EqualError(t, err, "queue: 2 nodes were joined, want 3")
	})
}
