package p2p

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

// relayTrio are a relay and two nodes that know of it alone; b has a place there.
func relayTrio(t *testing.T) (a, r, b *testHost) {
	t.Helper()
	n := testToken(t).Network("a")
	a, r, b = newTestHost(t, n), newTestHost(t, n), newTestHost(t, n)
	for _, h := range []*testHost{a, b} {
		require.NoError(t, h.Connect(t.Context(), peer.AddrInfo{ID: r.ID(), Addrs: r.Addrs()}))
	}
	_, err := client.Reserve(t.Context(), b.inner, peer.AddrInfo{ID: r.ID()})
	require.NoError(t, err)
	return a, r, b
}

func (h *testHost) connectThrough(ctx context.Context, r, to *testHost) error {
	return h.Connect(ctx, peer.AddrInfo{ID: to.ID(), Addrs: []multiaddr.Multiaddr{circuitVia(r.ID())}})
}

func TestNodesThatCannotReachEachOtherMeetThroughAThird(t *testing.T) {
	a, r, b := relayTrio(t)
	require.NoError(t, a.connectThrough(t.Context(), r, b))
	require.True(t, a.relayed(b.ID()))
	require.False(t, a.relayed(r.ID()))
	require.Eventually(t, func() bool { return b.relayed(a.ID()) }, waitFor, 5*time.Millisecond)

	// More than libp2p lets strangers send.
	const size = 4 << 20
	got := make(chan int64, 1)
	b.Handle("/test/sink", AccessAdmitted, func(s network.Stream) {
		n, _ := io.Copy(io.Discard, s)
		_ = s.Close()
		got <- n
	})
	s, err := a.Open(t.Context(), b.ID(), "/test/sink")
	require.NoError(t, err)
	require.False(t, s.Conn().Stat().Limited)
	_, err = s.Write(make([]byte, size))
	require.NoError(t, err)
	require.NoError(t, s.CloseWrite())
	require.EqualValues(t, size, <-got)
}

func TestARelayedConnectionPassesTheGateLikeAnyOther(t *testing.T) {
	n := testToken(t).Network("a")
	r, b := newTestHost(t, n), newTestHost(t, n)
	require.NoError(t, b.Connect(t.Context(), peer.AddrInfo{ID: r.ID(), Addrs: r.Addrs()}))
	_, err := client.Reserve(t.Context(), b.inner, peer.AddrInfo{ID: r.ID()})
	require.NoError(t, err)

	// Admitted by the relay, and revoked where it wants to go.
	a := newTestHost(t, n)
	b.ledger.set(a.ID(), StandingRevoked)
	require.NoError(t, a.Connect(t.Context(), peer.AddrInfo{ID: r.ID(), Addrs: r.Addrs()}))
	require.Error(t, a.connectThrough(t.Context(), r, b))
	require.Empty(t, b.inner.Network().ConnsToPeer(a.ID()))
	require.Eventually(t, func() bool { return b.Refusals()["revoked"] == 1 }, waitFor, 5*time.Millisecond)

	// Somebody without the token gets nothing of the relay itself.
	stranger := plainHost(t)
	require.Error(t, stranger.Connect(t.Context(), peer.AddrInfo{ID: b.ID(), Addrs: []multiaddr.Multiaddr{r.Addrs()[0].Encapsulate(circuitVia(r.ID()))}}))
	require.Empty(t, r.inner.Network().ConnsToPeer(stranger.ID()))
}

func TestARelayServesItsOwnSite(t *testing.T) {
	a, r, b := relayTrio(t)
	acl := relayACL{r.Host}
	allowed := func() bool { return acl.AllowConnect(a.ID(), nil, b.ID()) }
	require.True(t, allowed(), "founders, and whoever a relay without a site serves")

	r.SetGreeting(Greeting{Site: "site", Generation: 1})
	require.False(t, allowed(), "neither is of its site")
	r.ledger.set(a.ID(), StandingMember)
	require.True(t, allowed(), "a newcomer has to reach a member")
	r.ledger.set(b.ID(), StandingMember)
	require.True(t, allowed())
	require.NoError(t, a.connectThrough(t.Context(), r, b))

	r.ledger.set(b.ID(), StandingRevoked)
	require.False(t, allowed())
	require.False(t, acl.AllowReserve(b.ID(), nil))
}

func TestADirectConnectionTakesThePlaceOfARelayedOne(t *testing.T) {
	a, r, b := relayTrio(t)
	require.NoError(t, a.connectThrough(t.Context(), r, b))
	require.NoError(t, a.Connect(direct(t.Context()), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}))
	for _, h := range []*testHost{a, b} {
		other := a.ID()
		if h == a {
			other = b.ID()
		}
		require.Eventually(t, func() bool { return len(h.inner.Network().ConnsToPeer(other)) == 1 && !h.relayed(other) }, mergePatience+waitFor, 20*time.Millisecond)
	}
}

func TestRelaysComeLast(t *testing.T) {
	quic := multiaddr.StringCast("/ip4/192.0.2.1/udp/1/quic-v1")
	tcp := multiaddr.StringCast("/ip4/192.0.2.1/tcp/1")
	id := testPeerID(t, 1)
	var order []string
	last := time.Duration(-1)
	for _, a := range quicFirst([]multiaddr.Multiaddr{circuitVia(id), tcp, quic}) {
		require.GreaterOrEqual(t, a.Delay, last)
		last = a.Delay
		order = append(order, a.Addr.String())
	}
	require.Equal(t, []string{quic.String(), tcp.String(), circuitVia(id).String()}, order)
}
