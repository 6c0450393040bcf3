package p2p

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/crypto"
	libp2phost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// dhtServers are a whole DHT on loopback.
func dhtServers(t *testing.T, count int) (hosts []libp2phost.Host, addrs []string) {
	t.Helper()
	for range count {
		h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, h.Close()) })
		kad, err := dht.New(t.Context(), h, dht.Mode(dht.ModeServer), dht.DisableAutoRefresh(), dht.BootstrapPeers())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, kad.Close()) })
		for _, other := range hosts {
			require.NoError(t, h.Connect(t.Context(), peer.AddrInfo{ID: other.ID(), Addrs: other.Addrs()}))
		}
		hosts = append(hosts, h)
		addrs = append(addrs, h.Addrs()[0].String()+"/p2p/"+h.ID().String())
	}
	return hosts, addrs
}

// testDHT is a node's way into a DHT on loopback, in a hurry.
func testDHT(servers []string) *DHTConfig {
	return &DHTConfig{Bootstrap: servers, Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, patience: 100 * time.Millisecond}
}

func TestTheDHTAloneFindsANode(t *testing.T) {
	servers, addrs := dhtServers(t, 3)
	n := testToken(t).Network("a")
	a, b := newTestHost(t, n), newTestHost(t, n)
	stranger := newTestHost(t, testToken(t).Network("a"))
	a.discover(t, DiscoveryConfig{DHT: testDHT(addrs)})
	b.discover(t, DiscoveryConfig{DHT: testDHT(addrs)})
	stranger.discover(t, DiscoveryConfig{DHT: testDHT(addrs)})
	require.Eventually(t, func() bool { return a.connected(b.ID()) }, 3*waitFor, 20*time.Millisecond)
	require.Empty(t, stranger.inner.Network().Peers())

	// The DHT has met throw-away hosts only.
	for _, s := range servers {
		for _, h := range []*testHost{a, b} {
			require.Empty(t, s.Peerstore().Addrs(h.ID()))
			require.Empty(t, s.Network().ConnsToPeer(h.ID()))
			require.Empty(t, h.inner.Network().ConnsToPeer(s.ID()))
		}
	}
}

func TestADHTThatIsAwayIsTriedAgain(t *testing.T) {
	n := testToken(t).Network("a")
	a, b := newTestHost(t, n), newTestHost(t, n)
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	require.NoError(t, err)
	id, err := peer.IDFromPrivateKey(key)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0") // holds the port for the server
	require.NoError(t, err)
	addr := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port)
	a.discover(t, DiscoveryConfig{DHT: testDHT([]string{addr + "/p2p/" + id.String()})})
	b.discover(t, DiscoveryConfig{DHT: testDHT([]string{addr + "/p2p/" + id.String()})})
	time.Sleep(time.Second)
	require.NoError(t, l.Close())
	require.Empty(t, a.Peers())
	h, err := libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings(addr), libp2p.DisableRelay(), libp2p.DisableMetrics())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	kad, err := dht.New(t.Context(), h, dht.Mode(dht.ModeServer), dht.DisableAutoRefresh(), dht.BootstrapPeers())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, kad.Close()) })
	require.Eventually(t, func() bool { return a.connected(b.ID()) }, 3*waitFor, 20*time.Millisecond)
}

// Hosts that take a question and never answer it hide nobody: asked one after another they would last longer than a look.
func TestHostsInTheDHTThatDoNotAnswerHideNobody(t *testing.T) {
	servers, addrs := dhtServers(t, 1)
	n := testToken(t).Network("a")
	name := rendezvousName(n, time.Now(), 0)
	for range rendezvousTimeout/rendezvousAsk + 2 {
		mute, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, mute.Close()) })
		mute.SetStreamHandler(rendezvousProtocol, func(network.Stream) {})
		kad, err := dht.New(t.Context(), mute, dht.Mode(dht.ModeClient), dht.DisableAutoRefresh(), dht.BootstrapPeers())
		require.NoError(t, err)
		require.NoError(t, mute.Connect(t.Context(), peer.AddrInfo{ID: servers[0].ID(), Addrs: servers[0].Addrs()}))
		require.Eventually(t, func() bool { return kad.RoutingTable().Size() > 0 }, waitFor, time.Millisecond)
		require.NoError(t, kad.Provide(t.Context(), name, true))
		require.NoError(t, kad.Close())
	}
	a, b := newTestHost(t, n), newTestHost(t, n)
	a.discover(t, DiscoveryConfig{DHT: testDHT(addrs)})
	b.discover(t, DiscoveryConfig{DHT: testDHT(addrs)})
	require.Eventually(t, func() bool { return a.connected(b.ID()) }, 3*waitFor, 20*time.Millisecond)
}

// A member that was off while the token was replaced is found under its old name by those that have the new one.
func TestAMemberWithAReplacedTokenIsFoundInTheDHT(t *testing.T) {
	_, addrs := dhtServers(t, 1)
	old, present := testToken(t).Network("a"), testToken(t).Network("a")
	away, here := newTestHost(t, old), newTestHost(t, old)
	away.ledger.set(here.ID(), StandingMember)
	here.ledger.set(away.ID(), StandingMember)
	require.NoError(t, here.SetNetworks(Networks{Epoch: 1, Present: present, Former: []Network{old}}))
	away.discover(t, DiscoveryConfig{DHT: testDHT(addrs)})
	here.discover(t, DiscoveryConfig{DHT: testDHT(addrs)})
	require.Eventually(t, func() bool { return here.connected(away.ID()) }, 3*waitFor, 20*time.Millisecond)
}

func TestRendezvousNamesRotateAndClocksMayBeOffByADay(t *testing.T) {
	n, other := testToken(t).Network("a"), testToken(t).Network("a")
	now := time.Unix(1e9, 0)
	looked := []cid.Cid{rendezvousName(n, now, -1), rendezvousName(n, now, 0), rendezvousName(n, now, 1)}
	for _, off := range []time.Duration{-rendezvousWindow, 0, rendezvousWindow} {
		require.Contains(t, looked, rendezvousName(n, now.Add(off), 0))
	}
	require.NotContains(t, looked, rendezvousName(n, now.Add(2*rendezvousWindow), 0))
	require.NotEqual(t, looked[1], rendezvousName(other, now, 0))
}

func TestARendezvousRecordIsReadByItsNetworkAlone(t *testing.T) {
	n, other := testToken(t).Network("a"), testToken(t).Network("a")
	h := newTestHost(t, n)
	self := peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}
	raw := sealRendezvous(n, self)
	got, err := openRendezvous(n, raw)
	require.NoError(t, err)
	require.Equal(t, self.ID, got.ID)
	require.ElementsMatch(t, self.Addrs, got.Addrs)
	_, err = openRendezvous(other, raw)
	require.ErrorIs(t, err, errNotOurs)
	raw[len(raw)-1] ^= 1
	_, err = openRendezvous(n, raw)
	require.ErrorIs(t, err, errNotOurs)
}

func TestABadDHTServerIsNamed(t *testing.T) {
	h := newTestHost(t, testToken(t).Network("a"))
	_, err := StartDiscovery(DiscoveryConfig{Host: h.Host, DHT: testDHT([]string{"/ip4/1.2.3.4/tcp/1"})})
	require.ErrorContains(t, err, "/ip4/1.2.3.4/tcp/1")
}

func FuzzDecodeRendezvous(f *testing.F) {
	f.Add(append([]byte{1}, encodeExchange([]peer.AddrInfo{{ID: testPeerID(f, 1)}})...))
	f.Add([]byte{1, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if info, err := decodeRendezvous(raw); err == nil {
			require.NoError(t, info.ID.Validate())
		}
	})
}
