package p2p

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

func TestNewcomerWithAReplacedTokenHearsThatItWas(t *testing.T) {
	old, present := testToken(t).Network("a"), testToken(t).Network("a")
	for _, transport := range []string{"quic-v1", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			ours, newcomer := newTestHost(t, old), newTestHost(t, old)
			require.NoError(t, ours.SetNetworks(Networks{Epoch: 1, Present: present, Former: []Network{old}}))
			require.ErrorIs(t, newcomer.Connect(testContext(t), ours.over(transport)), ErrTokenReplaced)
			require.Len(t, newcomer.RefusedBy(), 1)
			require.ErrorIs(t, newcomer.RefusedBy()[0].Reason, ErrTokenReplaced)
			require.Equal(t, ours.ID(), newcomer.RefusedBy()[0].By)
			require.Empty(t, ours.Peers())
			require.Eventually(t, func() bool { return ours.Refusals()["token_replaced"] > 0 }, waitFor, 10*time.Millisecond)

			// With the present token it is let in.
			require.NoError(t, newcomer.SetNetworks(Networks{Present: present}))
			require.Empty(t, newcomer.RefusedBy())
			require.NoError(t, newcomer.Connect(testContext(t), ours.over(transport)))
			ours.eventually(t, "the newcomer", func() bool { p, ok := ours.peer(newcomer.ID()); return ok && p.Epoch == 1 })
		})
	}
}

func TestRotationKeepsMembersAndShowsNewcomersTheDoor(t *testing.T) {
	old, present := testToken(t).Network("a"), testToken(t).Network("a")
	a, member, newcomer := newTestHost(t, old), newTestHost(t, old), newTestHost(t, old)
	a.ledger.set(member.ID(), StandingMember)
	member.ledger.set(a.ID(), StandingMember)
	for _, h := range []*testHost{member, newcomer} {
		require.NoError(t, h.Connect(testContext(t), a.info()))
		a.eventually(t, "both", func() bool { return a.sees(h.ID()) })
	}
	require.NoError(t, a.SetNetworks(Networks{Epoch: 1, Present: present, Former: []Network{old}}))
	a.eventually(t, "that the newcomer is gone", func() bool { return !a.sees(newcomer.ID()) })
	require.True(t, a.sees(member.ID()))
	require.NotEmpty(t, member.inner.Network().ConnsToPeer(a.ID()))

	// The member has not heard of the rotation, and needs no token.
	member.Disconnect(a.ID())
	a.eventually(t, "that the member hung up", func() bool { return !a.sees(member.ID()) })
	require.NoError(t, member.Connect(testContext(t), a.info()))
}

func TestRevokedNodeHearsItFromAMemberAndBelievesNobodyElse(t *testing.T) {
	n := testToken(t).Network("a")
	member, revoked := newTestHost(t, n), newTestHost(t, n)
	member.ledger.set(revoked.ID(), StandingRevoked)

	require.Error(t, revoked.Connect(testContext(t), member.info()))
	require.Empty(t, revoked.RefusedBy(), "it does not know who that was")

	revoked.ledger.set(member.ID(), StandingMember)
	require.ErrorIs(t, revoked.Connect(testContext(t), member.info()), ErrRevokedThere)
	require.Len(t, revoked.RefusedBy(), 1)
	require.ErrorIs(t, revoked.RefusedBy()[0].Reason, ErrRevokedThere)
	require.Empty(t, member.Peers())
}

// A member that was off during a rotation asks by the name that it knows.
func TestNodeWithAReplacedTokenIsAnsweredOnTheLAN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, present := testToken(t).Network("a"), testToken(t).Network("a")
		w, start := &wire{}, time.Now()
		var formers []bool
		ours := newMDNS(w.plug(1), Networks{Present: old}, testPeerID(t, 1), func(_ peer.AddrInfo, former bool) { formers = append(formers, former) }, func(netip.Addr) {}, discardLog)
		runMDNS(t, ours)
		synctest.Wait()
		ours.setNetworks(Networks{Epoch: 1, Present: present, Former: []Network{old}})
		time.Sleep(time.Minute)
		away := startMDNS(t, w, old, 2, start)
		fresh := startMDNS(t, w, present, 3, start)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, 1, away.sees(), "it hears who has the new token, and not those that never had its own")
		require.Equal(t, 1, fresh.sees())
		require.Contains(t, formers, true)
		require.Contains(t, formers, false)
	})
}

func TestRefusalsAreOneByteAndUnknownOnesRefuse(t *testing.T) {
	require.NoError(t, decodeRefusal(salutation{Greeting: Greeting{Site: "x"}}.encode()))
	require.ErrorIs(t, decodeRefusal(encodeRefusal(refusedToken)), ErrTokenReplaced)
	require.ErrorIs(t, decodeRefusal(encodeRefusal(refusedIdentity)), ErrRevokedThere)
	require.ErrorIs(t, decodeRefusal([]byte{0, 99, 1}), ErrHungUp)
	_, err := decodeSalutation(encodeRefusal(refusedToken))
	require.Error(t, err, "to an older node it is no greeting")
}
