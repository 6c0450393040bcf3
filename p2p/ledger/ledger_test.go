package ledger

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFoundersCommitTheGenesisRecordFirst(t *testing.T) {
	for _, tt := range []struct{ founders, masters int }{{1, 1}, {2, 1}, {4, 3}, {6, 5}} {
		s := newSite(t, tt.founders, tt.masters).found()
		c := s.coordinator()
		s.settled(c.Index())
		for _, n := range s.nodes {
			g, ok := ReadGenesis(n.View())
			require.True(t, ok)
			require.Equal(t, s.cert.Genesis, g)
			require.Len(t, n.List(""), 1, "nothing before the genesis record")
			require.Equal(t, n.List("")[0].Index, n.Index())
		}
		for _, n := range s.nodes {
			n.stop()
		}
	}
}

func TestAnyNodeProposesAndReadsItsOwnWrite(t *testing.T) {
	s := newSite(t, 4, 3).found()
	s.coordinator()
	for i, n := range s.nodes {
		if i == 3 {
			break // no master
		}
		index, err := n.Propose(testContext(t), dns("a", "10.0.0.1", n.View().IndexOf(DNSKey("a"))))
		require.NoError(t, err)
		e, ok := n.Get(DNSKey("a"))
		require.True(t, ok)
		require.Equal(t, index, e.Index)
		require.Equal(t, n.id(), e.Author)
		s.settled(index)
	}
}
