package ledger

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAMemberThatFloodsKeepsNobodyElseFromDeciding(t *testing.T) {
	s := newSite(t, 3, 3)
	s.timing.ProposeAttempt = 20 * time.Second // nobody gives up meanwhile
	s.found()
	c := s.coordinator()
	s.settled(c.Index())
	var others []*testNode
	for _, n := range s.nodes {
		if n != c {
			others = append(others, n)
		}
	}
	flooding, other := others[0], others[1]
	inHand := func(n *testNode) int {
		c.hands.mu.Lock()
		defer c.hands.mu.Unlock()
		return c.hands.held[n.id()]
	}
	v := c.voting()
	v.deciding <- struct{}{} // proposals wait for their turn
	txn := dns("flood", "192.0.2.1", 0)
	txn.ID = NewTxnID()
	p, err := signProposal(flooding.identity, flooding.Site(), txn)
	require.NoError(t, err)
	answers := make(chan verdict, 2*maxInHand)
	for range cap(answers) {
		go func() {
			v, err := flooding.send(testContext(t), c.id(), proposeRequest{Version: 1, Site: flooding.Site(), Proposal: p})
			if err != nil {
				v = later("%v", err)
			}
			answers <- v
		}()
	}
	for range cap(answers) - maxInHandOfPeer {
		require.Contains(t, (<-answers).Reason, "too many")
	}
	require.Equal(t, maxInHandOfPeer, inHand(flooding))

	decided := make(chan error, 1)
	go func() {
		_, err := other.Propose(testContext(t), dns("other", "192.0.2.1", 0))
		decided <- err
	}()
	eventually(t, "the other's proposal is in hand", func() bool { return inHand(other) == 1 })
	<-v.deciding
	require.NoError(t, <-decided)
	for range maxInHandOfPeer {
		require.NotContains(t, (<-answers).Reason, "too many")
	}
}
