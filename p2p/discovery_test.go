package p2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

func (h *testHost) discover(t testing.TB, cfg DiscoveryConfig) *Discovery {
	cfg.Host = h.Host
	d, err := StartDiscovery(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// hostPort is the host's port in the form that an operator writes.
func (h *testHost) hostPort(t testing.TB) string {
	port, err := h.over("tcp").Addrs[0].ValueForProtocol(multiaddr.P_TCP)
	require.NoError(t, err)
	return "127.0.0.1:" + port
}

func TestBootstrapAddressOfEveryFormFindsANode(t *testing.T) {
	n := testToken(t).Network("a")
	a := newTestHost(t, n)
	withID := func(transport string) string { return fmt.Sprint(a.over(transport).Addrs[0], "/p2p/", a.ID()) }
	for name, addr := range map[string]string{
		"host and port":    a.hostPort(t),
		"QUIC without ID":  a.over("quic-v1").Addrs[0].String(),
		"TCP without ID":   a.over("tcp").Addrs[0].String(),
		"QUIC with ID":     withID("quic-v1"),
		"TCP with ID":      withID("tcp"),
		"a name":           "localhost:" + a.hostPort(t)[len("127.0.0.1:"):],
		"beside itself":    a.hostPort(t), // the list is the same on every node
		"a dead one first": a.hostPort(t),
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestHost(t, n)
			bootstrap := []string{addr}
			switch name {
			case "beside itself":
				bootstrap = []string{b.hostPort(t), addr}
			case "a dead one first":
				bootstrap = []string{"127.0.0.1:1", addr}
			}
			b.discover(t, DiscoveryConfig{Network: n, Bootstrap: bootstrap})
			b.eventually(t, "the bootstrap node", func() bool { return b.sees(a.ID()) })
			require.False(t, b.sees(b.ID()))
		})
	}
}

func TestBootstrapAddressesOfTheTokenAreUsed(t *testing.T) {
	token := testToken(t)
	a := newTestHost(t, token.Network("a"))
	addr, err := ParseBootstrap(a.hostPort(t))
	require.NoError(t, err)
	token.bootstrap = []multiaddr.Multiaddr{addr}
	b := newTestHost(t, token.Network("a"))
	b.discover(t, DiscoveryConfig{Network: token.Network("a")})
	b.eventually(t, "the bootstrap node", func() bool { return b.sees(a.ID()) })
}

func TestOneBootstrapNodeLeadsToAllOthers(t *testing.T) {
	n := testToken(t).Network("a")
	hub := newTestHost(t, n)
	hub.discover(t, DiscoveryConfig{Network: n})
	var hosts []*testHost
	for range 3 {
		h := newTestHost(t, n)
		h.discover(t, DiscoveryConfig{Network: n, Bootstrap: []string{hub.hostPort(t)}})
		hosts = append(hosts, h)
	}
	for _, h := range hosts {
		h.eventually(t, "everybody", func() bool { return len(h.Peers()) == 3 })
	}
}

func TestAddressBookAloneFindsASiteAgain(t *testing.T) {
	n := testToken(t).Network("a")
	book := filepath.Join(t.TempDir(), "book.json")
	id, other := testIdentity(t), newTestHost(t, n)

	first, err := NewHost(HostConfig{Identity: id, Network: n, Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	require.NoError(t, err)
	d, err := StartDiscovery(DiscoveryConfig{Host: first, Network: n, BookPath: book, Bootstrap: []string{other.hostPort(t)}})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(d.book.all()) == 1 }, waitFor, 10*time.Millisecond)
	require.NoError(t, d.Close())
	require.NoError(t, first.Close())
	info, err := os.Stat(book)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	again := newTestHost(t, n, func(c *HostConfig) { c.Identity = id })
	again.discover(t, DiscoveryConfig{Network: n, BookPath: book})
	again.eventually(t, "the site", func() bool { return again.sees(other.ID()) })
}

func TestRevokedPeersLeaveTheAddressBook(t *testing.T) {
	n := testToken(t).Network("a")
	a, b := newTestHost(t, n), newTestHost(t, n)
	d := a.discover(t, DiscoveryConfig{Network: n, Bootstrap: []string{b.hostPort(t)}})
	a.eventually(t, "b", func() bool { return a.sees(b.ID()) })
	require.Eventually(t, func() bool { return len(d.book.all()) == 1 }, waitFor, 10*time.Millisecond)
	a.ledger.set(b.ID(), StandingRevoked)
	require.Eventually(t, func() bool { return len(d.book.all()) == 0 }, waitFor, 10*time.Millisecond)
}

func TestBadBootstrapAddressIsNamed(t *testing.T) {
	h := newTestHost(t, testToken(t).Network("a"))
	for _, bad := range []string{"", "host", "host:0", "host:99999", ":7946", "/ip4/1.2.3.4", "/ip4/1.2.3.4/tcp/1/ws", "/unix/x", "/ip4/1.2.3.4/udp/1/quic-v1/p2p-circuit", "x y:1"} {
		_, err := StartDiscovery(DiscoveryConfig{Host: h.Host, Bootstrap: []string{bad}})
		require.ErrorContains(t, err, fmt.Sprintf("bootstrap address %q", bad))
	}
}

// fakeDialHost connects to whoever is up, in virtual time.
type fakeDialHost struct {
	changed Notifier
	mu      sync.Mutex
	up      map[peer.ID]bool
	conns   map[peer.ID]bool
	dials   map[peer.ID][]time.Time
}

func (f *fakeDialHost) ID() peer.ID              { return "m" }
func (f *fakeDialHost) Changed() <-chan struct{} { return f.changed.Changed() }

func (f *fakeDialHost) connected(p peer.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conns[p]
}

func (f *fakeDialHost) relayed(peer.ID) bool                         { return false }
func (f *fakeDialHost) relaysFor(peer.ID, int) []multiaddr.Multiaddr { return nil }

func (f *fakeDialHost) Connect(_ context.Context, info peer.AddrInfo) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dials == nil {
		f.dials = map[peer.ID][]time.Time{}
	}
	f.dials[info.ID] = append(f.dials[info.ID], time.Now())
	if !f.up[info.ID] {
		return errors.New("down")
	}
	f.conns[info.ID] = true
	f.changed.Notify()
	return nil
}

func (f *fakeDialHost) dialled(p peer.ID) []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]time.Time(nil), f.dials[p]...)
}

func (f *fakeDialHost) probe(context.Context, multiaddr.Multiaddr) (peer.AddrInfo, error) {
	return peer.AddrInfo{ID: "b"}, nil
}

func (f *fakeDialHost) set(p peer.ID, up, connected bool) {
	f.mu.Lock()
	f.up[p], f.conns[p] = up, connected
	f.mu.Unlock()
	f.changed.Notify()
}

func runDialer(t *testing.T, wanted []peer.AddrInfo, test func(f *fakeDialHost, d *dialer)) {
	runDialerConnectedTo(t, nil, wanted, test)
}

// runDialerConnectedTo starts with peers that are there before the dialer looks.
func runDialerConnectedTo(t *testing.T, connected []peer.ID, wanted []peer.AddrInfo, test func(f *fakeDialHost, d *dialer)) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDialHost{up: map[peer.ID]bool{}, conns: map[peer.ID]bool{}}
		for _, p := range connected {
			f.set(p, true, true)
		}
		d := newDialer(f, slog.New(slog.DiscardHandler))
		d.wanted = func() []peer.AddrInfo { return wanted }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); d.run(ctx) }()
		test(f, d)
		cancel()
		<-done
	})
}

var somewhere = []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/192.0.2.1/tcp/1")}

func TestWantedPeersAreDialledForEver(t *testing.T) {
	runDialer(t, []peer.AddrInfo{{ID: "a", Addrs: somewhere}}, func(f *fakeDialHost, _ *dialer) {
		time.Sleep(24 * time.Hour)
		dials := f.dialled("a")
		require.Greater(t, len(dials), int(24*time.Hour/redialMax))
		for i, at := range dials[1:] {
			wait := at.Sub(dials[i])
			require.LessOrEqual(t, wait, redialMax)
			require.GreaterOrEqual(t, wait, min(redialMax, redialFirst<<min(i, 16))/2)
		}
	})
}

func TestLostPeerIsDialledAtOnceAndThenWithPatience(t *testing.T) {
	runDialerConnectedTo(t, []peer.ID{"a", "z"}, []peer.AddrInfo{{ID: "a", Addrs: somewhere}, {ID: "z", Addrs: somewhere}}, func(f *fakeDialHost, _ *dialer) {
		time.Sleep(time.Hour)
		require.Empty(t, f.dialled("a"))
		require.Empty(t, f.dialled("z"))
		lost := time.Now()
		f.set("z", true, false)
		f.set("a", true, false)
		synctest.Wait()
		require.Len(t, f.dialled("z"), 1, "the end with the smaller ID dials at once")
		require.Empty(t, f.dialled("a"), "the other gives way")
		time.Sleep(yield)
		require.Len(t, f.dialled("a"), 1)
		require.LessOrEqual(t, f.dialled("a")[0].Sub(lost), yield)
	})
}

func TestSightedPeerIsForgottenWhenItStaysAway(t *testing.T) {
	runDialer(t, nil, func(f *fakeDialHost, d *dialer) {
		d.sighted(peer.AddrInfo{ID: "b", Addrs: somewhere})
		time.Sleep(forgetAfter + time.Minute)
		synctest.Wait()
		require.NotEmpty(t, f.dialled("b"))
		require.Empty(t, d.targets)
	})
}

func TestBootstrapAddressIsAskedAgainWhoIsThere(t *testing.T) {
	runDialer(t, nil, func(f *fakeDialHost, d *dialer) {
		d.bootstrap(somewhere[0])
		time.Sleep(time.Minute)
		require.Greater(t, len(f.dialled("b")), 4)
		f.set("b", true, false)
		time.Sleep(redialMax)
		require.True(t, f.connected("b"))
		f.set("b", true, false)
		time.Sleep(yield)
		require.True(t, f.connected("b"))
	})
}

func TestAddressBookIsBounded(t *testing.T) {
	b := openAddressBook("", nil)
	var many []multiaddr.Multiaddr
	for port := range 3 * maxBookAddrs {
		many = append(many, multiaddr.StringCast(fmt.Sprintf("/ip4/192.0.2.1/tcp/%d", port+1)))
	}
	for i := range maxBookPeers + 10 {
		b.put(peer.AddrInfo{ID: testPeerID(t, i), Addrs: many})
	}
	require.Len(t, b.all(), maxBookPeers)
	require.Len(t, b.all()[0].Addrs, maxBookAddrs)
	require.Equal(t, testPeerID(t, maxBookPeers+9), b.all()[0].ID)
	raw, err := encodeAddressBook(b.all())
	require.NoError(t, err)
	require.Less(t, len(raw), maxBookFile)
	back, err := parseAddressBook(raw)
	require.NoError(t, err)
	require.Equal(t, b.all(), back)
}

func TestDamagedAddressBookIsStartedAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "book.json")
	require.NoError(t, os.WriteFile(path, []byte(`{"version":1,"peers":[{"id":"x"}]}`), 0o600))
	var log bytes.Buffer
	b := openAddressBook(path, slog.New(slog.NewTextHandler(&log, nil)))
	require.Empty(t, b.all())
	require.Contains(t, log.String(), "starts anew")
	b.put(peer.AddrInfo{ID: testPeerID(t, 1), Addrs: somewhere})
	require.NoError(t, b.save())
	require.Len(t, openAddressBook(path, nil).all(), 1)
}

func FuzzAddressBook(f *testing.F) {
	raw, err := encodeAddressBook([]peer.AddrInfo{{ID: testPeerID(f, 1), Addrs: somewhere}})
	require.NoError(f, err)
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		peers, err := parseAddressBook(raw)
		if err != nil {
			return
		}
		again, err := encodeAddressBook(peers)
		require.NoError(t, err)
		back, err := parseAddressBook(again)
		require.NoError(t, err)
		require.Equal(t, len(peers), len(back))
	})
}

func FuzzDecodeExchange(f *testing.F) {
	f.Add(encodeExchange([]peer.AddrInfo{{ID: testPeerID(f, 1), Addrs: somewhere}, {ID: testPeerID(f, 2)}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		infos, err := decodeExchange(raw)
		if err != nil {
			return
		}
		again, err := decodeExchange(encodeExchange(infos))
		require.NoError(t, err)
		require.Equal(t, infos, again)
	})
}

// testPeerID is the ID of the n-th of a fixed row of identities.
func testPeerID(t testing.TB, n int) peer.ID {
	seed := make([]byte, 32)
	seed[0], seed[1] = byte(n), byte(n>>8)
	id, err := newIdentity("", nil, identityRecord{Seed: seed})
	require.NoError(t, err)
	return id.ID()
}

// The same list of bootstrap addresses for every node holds each one's own, as it is
// or as its router shows it.
func TestS6ANodeThatAsksItselfIsNoConflict(t *testing.T) {
	n := testToken(t).Network("a")
	ours := newTestHost(t, n)
	for _, transport := range []string{"quic-v1", "tcp"} {
		info, err := ours.probe(testContext(t), ours.over(transport).Addrs[0])
		require.NoError(t, err)
		require.Equal(t, ours.ID(), info.ID)
		require.NoError(t, ours.IdentityConflict())
	}
	require.Empty(t, ours.masks)
}

func TestS6ABootstrapNodeWithOurKeyIsAConflict(t *testing.T) {
	n, id := testToken(t).Network("a"), testIdentity(t)
	same := func(c *HostConfig) { c.Identity = id }
	ours, twin := newTestHost(t, n, same), newTestHost(t, n, same)
	info, err := ours.probe(testContext(t), twin.over("quic-v1").Addrs[0])
	require.NoError(t, err)
	require.Equal(t, ours.ID(), info.ID)
	require.ErrorIs(t, ours.IdentityConflict(), ErrIdentityConflict)
	twin.eventually(t, "the conflict", func() bool { return twin.IdentityConflict() != nil })
}
