package ledger

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAfterSyncTheCopyHoldsWhatWasDecidedBefore(t *testing.T) {
	s := newSite(t, 4, 3).found()
	c := s.coordinator()
	for _, n := range s.nodes {
		eventually(t, "it knows who coordinates", func() bool { _, known := n.Coordinator(); return known })
	}
	for i, n := range s.nodes {
		index, err := c.Propose(testContext(t), dns("a", "10.0.0.1", c.View().IndexOf(DNSKey("a"))))
		require.NoError(t, err)
		require.NoError(t, n.Sync(testContext(t)), "node %d", i)
		require.GreaterOrEqual(t, n.Index(), index, "node %d", i)
	}
}

// A coordinator that is cut off does not know yet that it was deposed, and says
// nothing about what is decided.
func TestSyncNeedsAMajorityOfTheMasters(t *testing.T) {
	s := newSite(t, 4, 3)
	s.timing.ProposeAttempt = time.Second
	s.found()
	c := s.coordinator()
	s.net.isolate(c.id())
	require.ErrorIs(t, c.Sync(testContext(t)), ErrNoQuorum)
	for _, n := range s.nodes {
		if n != c {
			eventually(t, "the others sync with a new coordinator", func() bool { return n.Sync(testContext(t)) == nil })
		}
	}
	require.ErrorIs(t, c.Sync(testContext(t)), ErrNoQuorum)
	s.net.heal()
	eventually(t, "it syncs again", func() bool { return c.Sync(testContext(t)) == nil })
}
