package p2p

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

const waitFor = 20 * time.Second

// standings is a ledger for tests.
type standings struct {
	mu sync.Mutex
	of map[peer.ID]Standing
}

func (s *standings) get(p peer.ID) Standing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[p]
}

func (s *standings) set(p peer.ID, standing Standing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[peer.ID]Standing{}
	}
	s.of[p] = standing
}

// testHost is a host on loopback.
type testHost struct {
	*Host
	ledger *standings
}

func testToken(t testing.TB) Token {
	token, err := GenerateToken(TokenOptions{})
	require.NoError(t, err)
	return token
}

func testIdentity(t testing.TB) *Identity {
	id, _, err := OpenIdentity(t.TempDir(), Hardware{ID: "env:" + t.Name()})
	require.NoError(t, err)
	return id
}

func newTestHost(t testing.TB, n Network, change ...func(*HostConfig)) *testHost {
	ledger := &standings{}
	cfg := HostConfig{
		Identity: testIdentity(t), Network: n, Standing: ledger.get,
		Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Log:    slog.New(slog.NewTextHandler(testLog{t}, nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	h, err := NewHost(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return &testHost{h, ledger}
}

type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (h *testHost) info() peer.AddrInfo { return peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()} }

// over keeps the addresses of one transport.
func (h *testHost) over(transport string) peer.AddrInfo {
	info := peer.AddrInfo{ID: h.ID()}
	for _, addr := range h.Addrs() {
		if strings.Contains(addr.String(), "/"+transport) {
			info.Addrs = append(info.Addrs, addr)
		}
	}
	return info
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), waitFor)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits on the host's own events, so that a lost one fails a test.
func (h *testHost) eventually(t testing.TB, what string, ok func() bool) {
	deadline := time.After(waitFor)
	for {
		changed := h.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			require.Fail(t, "never came", what)
		}
	}
}

func (h *testHost) peer(p peer.ID) (Peer, bool) {
	for _, have := range h.Peers() {
		if have.ID == p {
			return have, true
		}
	}
	return Peer{}, false
}

func (h *testHost) sees(p peer.ID) bool {
	_, ok := h.peer(p)
	return ok
}

func TestMain(m *testing.M) {
	if len(os.Getenv(lanNodeEnv)) > 0 {
		runLANNode()
		return
	}
	goleak.VerifyTestMain(m,
		// Global ones of libraries, started once and for the life of the process.
		goleak.IgnoreTopFunction("github.com/ipfs/go-log/v2/writer.(*MirrorWriter).logRoutine"),
		goleak.IgnoreAnyFunction("github.com/libp2p/go-flow-metrics.(*sweeper).run"),
		// A probe in hand outlives memberlist's shutdown by some seconds; a list that
		// was never shut down shows by its other goroutines.
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"),
	)
}

func TestTwoNodesOfOneNetworkMeetAndGreet(t *testing.T) {
	for _, transport := range []string{"quic-v1", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			n := testToken(t).Network("a")
			a := newTestHost(t, n)
			b := newTestHost(t, n, func(c *HostConfig) { c.Greeting = Greeting{Site: "berlin", Generation: 3} })
			require.NoError(t, a.Connect(testContext(t), b.over(transport)))

			a.eventually(t, "b", func() bool { return a.sees(b.ID()) })
			seen, _ := a.peer(b.ID())
			require.Equal(t, Greeting{"berlin", 3}, seen.Greeting)
			require.Equal(t, StandingUnknown, seen.Standing)
			require.Contains(t, seen.Addr.String(), transport)

			b.eventually(t, "a", func() bool { return b.sees(a.ID()) })
			a.SetGreeting(Greeting{Site: "berlin", Generation: 4})
			b.eventually(t, "a's new greeting", func() bool {
				seen, _ := b.peer(a.ID())
				return seen.Greeting == Greeting{"berlin", 4}
			})

			b.Disconnect(a.ID())
			a.eventually(t, "b gone", func() bool { return !a.sees(b.ID()) })
			b.eventually(t, "a gone", func() bool { return !b.sees(a.ID()) })
		})
	}
}

func TestNewcomerBecomesMemberWithoutReconnecting(t *testing.T) {
	n := testToken(t).Network("a")
	a, b := newTestHost(t, n), newTestHost(t, n)
	echo := func(s network.Stream) {
		_, err := io.Copy(s, s)
		if err == nil {
			_ = s.Close()
		}
	}
	a.Handle("/test/members", AccessMember, echo)
	a.Handle("/test/all", AccessAdmitted, echo)
	require.NoError(t, b.Connect(testContext(t), a.info()))

	say := func(proto string) error {
		s, err := b.Open(testContext(t), a.ID(), "/test/"+"members")
		if proto == "all" {
			s, err = b.Open(testContext(t), a.ID(), "/test/all")
		}
		if err != nil {
			return err
		}
		if _, err := s.Write([]byte("x")); err != nil {
			return err
		}
		if err := s.CloseWrite(); err != nil {
			return err
		}
		_, err = io.ReadFull(s, make([]byte, 1))
		return err
	}
	require.NoError(t, say("all"))
	require.Error(t, say("members"))
	a.ledger.set(b.ID(), StandingMember)
	require.NoError(t, say("members"))
	a.ledger.set(b.ID(), StandingRevoked)
	require.Error(t, say("members"))
	b.eventually(t, "the end of the revoked peer's connection", func() bool { return !b.sees(a.ID()) })
	require.Error(t, b.Connect(testContext(t), a.info()))
	require.ErrorIs(t, a.Connect(testContext(t), b.info()), ErrRevoked)
}

func TestBothTransportsShareOnePort(t *testing.T) {
	h := newTestHost(t, testToken(t).Network("a"))
	ports := map[string]bool{}
	for _, addr := range h.Addrs() {
		for _, code := range []int{multiaddr.P_TCP, multiaddr.P_UDP} {
			if port, err := addr.ValueForProtocol(code); err == nil {
				ports[port] = true
			}
		}
	}
	require.Len(t, h.Addrs(), 2)
	require.Len(t, ports, 1)
}

func TestHiddenAddressesAreNeitherAnnouncedNorDialled(t *testing.T) {
	n := testToken(t).Network("a")
	hide := func(c *HostConfig) {
		c.Hidden = func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") }
	}
	a, b := newTestHost(t, n), newTestHost(t, n, hide)
	require.Empty(t, b.Addrs())
	require.Error(t, b.Connect(testContext(t), a.info()))
}

func TestNodesThatDialEachOtherAtOnceKeepOneConnection(t *testing.T) {
	n := testToken(t).Network("a")
	a, b := newTestHost(t, n), newTestHost(t, n)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { _ = a.Connect(testContext(t), b.info()) })
		wg.Go(func() { _ = b.Connect(testContext(t), a.info()) })
	}
	wg.Wait()
	require.Eventually(t, func() bool {
		return len(a.inner.Network().ConnsToPeer(b.ID())) == 1 && len(b.inner.Network().ConnsToPeer(a.ID())) == 1
	}, waitFor, 50*time.Millisecond)
	require.True(t, a.sees(b.ID()))
	require.True(t, b.sees(a.ID()))
}

func TestS6ConnectionFromTheHolderOfOurKeyIsAConflict(t *testing.T) {
	n, id := testToken(t).Network("a"), testIdentity(t)
	ours := newTestHost(t, n, func(c *HostConfig) { c.Identity = id })
	require.NoError(t, ours.IdentityConflict())
	conn, err := dialSilently(t, ours, id)
	require.NoError(t, err)
	<-conn.Context().Done()
	ours.eventually(t, "the conflict", func() bool { return ours.IdentityConflict() != nil })
	require.ErrorIs(t, ours.IdentityConflict(), ErrIdentityConflict)
	require.Empty(t, ours.Peers())
}
