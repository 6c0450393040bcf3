package ledger

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

func TestOnlyMastersSpeakRaft(t *testing.T) {
	s := newSite(t, 4, 3).found()
	master := s.coordinator()
	s.settled(master.Index())
	reach := func(from *testNode) error {
		layer := newStreamLayer(from.host, master.Site(), func() hello { return hello{Version: 1} }, func(peer.ID) bool { return true })
		defer func() { require.NoError(t, layer.Close()) }()
		_, err := layer.ask(t.Context(), master.id())
		return err
	}
	for _, n := range s.nodes {
		switch {
		case n == master:
		case n.Status().Voter:
			require.NoError(t, reach(n))
		default:
			require.Error(t, reach(n), "a worker that speaks Raft could decide for the site")
		}
	}
}
