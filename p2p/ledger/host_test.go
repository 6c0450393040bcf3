package ledger

import (
	"net/netip"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p"
)

// The same ledger over real hosts on loopback: three masters, a follower, and a
// newcomer that knows only the token.
func TestLedgerOverRealHosts(t *testing.T) {
	s := newSite(t, 4, 3)
	token, err := p2p.GenerateToken(p2p.TokenOptions{})
	require.NoError(t, err)
	var ledgers []*Ledger
	standing := func(id peer.ID) p2p.Standing {
		if s.cert.Genesis.Founder(id.String()) {
			return p2p.StandingMember
		}
		return p2p.StandingUnknown
	}
	host := func(id *p2p.Identity) *p2p.Host {
		h, err := p2p.NewHost(p2p.HostConfig{
			Identity: id, Network: token.Network(""), Standing: standing,
			Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, h.Close()) })
		return h
	}
	var hosts []*p2p.Host
	for _, n := range s.nodes {
		h := host(n.identity)
		for _, o := range hosts {
			require.NoError(t, h.Connect(testContext(t), peer.AddrInfo{ID: o.ID(), Addrs: o.Addrs()}))
		}
		hosts = append(hosts, h)
	}
	for i, n := range s.nodes {
		cfg := n.config()
		cfg.Host = hosts[i]
		l, err := Found(cfg, s.cert)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, l.Close()) })
		ledgers = append(ledgers, l)
	}
	index, err := ledgers[0].Propose(testContext(t), dns("a", "10.0.0.1", 0))
	require.NoError(t, err)
	for _, l := range ledgers {
		eventually(t, "the decision everywhere", func() bool { return l.Index() >= index })
	}

	id, _ := newIdentity(t, "new")
	h := host(id)
	require.NoError(t, h.Connect(testContext(t), peer.AddrInfo{ID: hosts[3].ID(), Addrs: hosts[3].Addrs()}))
	site, err := Enrol(testContext(t), h, hosts[3].ID(), id, newcomer)
	require.NoError(t, err)
	require.Equal(t, ledgers[0].Site(), site)
	eventually(t, "the newcomer is a member", func() bool { return IsMember(ledgers[3].View(), id.ID()) })
}
