package lab

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestAOneWayCutLosesOneDirectionOnly(t *testing.T) {
	l := labUp(t, Options{Nodes: 3})
	ctx := t.Context()
	const sent = 200
	arrives := func(from, to string, want int) {
		t.Helper()
		require.Equal(t, want, arrive(t, l, from, to, sent), "%s to %s", from, to)
	}
	// Both know the other's link address: a cut must not be mistaken for an unanswered ARP request.
	arrives("n1", "n2", sent)
	arrives("n2", "n1", sent)

	require.NoError(t, l.CutOneWay(ctx, []string{"n1"}, []string{"n2"}))
	arrives("n1", "n2", 0)
	arrives("n2", "n1", sent)
	arrives("n1", "n3", sent)
	require.NoError(t, l.Heal(ctx))
	arrives("n1", "n2", sent)

	out := DropOut
	require.NoError(t, l.Link(ctx, "n1", LinkChange{Drop: &out}))
	arrives("n1", "n2", 0)
	arrives("n2", "n1", sent)
	in := DropIn
	require.NoError(t, l.Link(ctx, "n1", LinkChange{Drop: &in}))
	arrives("n1", "n2", sent)
	arrives("n2", "n1", 0)
	require.NoError(t, l.Heal(ctx))
	arrives("n2", "n1", sent)

	wrong := Direction("sideways")
	err := l.Link(ctx, "n1", LinkChange{Drop: &wrong})
	require.ErrorContains(t, err, `drop "sideways"`)
	require.Equal(t, 2, ExitCode(err))
}

// A slow link delays each frame each way and changes none, those either that the kernel left unfinished for a network card;
// it outlasts a reboot of the node, and loss and partitions work on it.
func TestASlowLinkDelaysAndChangesNothing(t *testing.T) {
	l := labUp(t, Options{Nodes: 3})
	ctx := t.Context()
	delay := 60 * time.Millisecond
	require.NoError(t, l.Link(ctx, "n1", LinkChange{Delay: &delay}))
	require.GreaterOrEqual(t, roundTrip(t, l, "n2", "n1"), 2*delay)
	require.GreaterOrEqual(t, roundTrip(t, l, "n1", "n3"), 2*delay)

	require.NoError(t, l.Restart(ctx, "n1"))
	require.GreaterOrEqual(t, roundTrip(t, l, "n2", "n1"), 2*delay)
	require.NoError(t, l.Partition(ctx, []string{"n1"}, []string{"n2"}))
	require.Zero(t, arrive(t, l, "n1", "n2", 100))
	require.Equal(t, 100, arrive(t, l, "n1", "n3", 100))

	longer := 100 * time.Millisecond
	require.NoError(t, l.Link(ctx, "n1", LinkChange{Delay: &longer}))
	require.GreaterOrEqual(t, roundTrip(t, l, "n3", "n1"), 2*longer)
	require.NoError(t, l.Heal(ctx))
	require.Equal(t, 100, arrive(t, l, "n1", "n2", 100))
	links, err := l.Exec(ctx, "n1", "cat", "/sys/class/net/eth0/carrier")
	require.NoError(t, err)
	require.Equal(t, "1\n", links)

	endless := time.Minute
	err = l.Link(ctx, "n1", LinkChange{Delay: &endless})
	require.ErrorContains(t, err, "want 0 to 10s")
	require.Equal(t, 2, ExitCode(err))
}

// roundTrip is how long a byte takes from one node to another and back over TCP, and checks that a megabyte does so unchanged.
func roundTrip(t *testing.T, l *Lab, from, to string) time.Duration {
	t.Helper()
	addr, err := l.NodeAddr(to)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() {
		_, err := l.Exec(t.Context(), to, "muster", "echo", "0.0.0.0:9100")
		served <- err
	}()
	out, err := l.Exec(t.Context(), from, "muster", "ask", addr.String()+":9100")
	require.NoError(t, err)
	require.NoError(t, <-served)
	took, err := time.ParseDuration(strings.TrimSpace(out))
	require.NoError(t, err)
	return took
}

func TestAFrozenNodeDoesNothingUntilItThaws(t *testing.T) {
	l := labUp(t, Options{Nodes: 1})
	ctx := t.Context()
	const look = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline | grep -q '^muster agent' && sed -n 's/^State:.//p' $p/status; done; true"
	agentIs := func(state string) {
		t.Helper()
		// A signal arrives when it arrives, and processes come and go while one looks.
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			out, err := l.Exec(ctx, "n1", "sh", "-c", look)
			require.NoError(c, err)
			require.Contains(c, out, state)
		}, time.Minute, 10*time.Millisecond)
	}
	agentIs("sleeping")
	require.NoError(t, l.Signal(ctx, "n1", unix.SIGSTOP))
	agentIs("stopped")
	require.NoError(t, l.Signal(ctx, "n1", unix.SIGCONT))
	agentIs("sleeping")
}
