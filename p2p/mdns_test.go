package p2p

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// wire is a LAN in virtual time.
type wire struct {
	mu    sync.Mutex
	nodes []*wireNode
	bytes int
	last  time.Time // of any packet
	deaf  bool      // forwards nothing
}

type wireNode struct {
	wire *wire
	addr netip.Addr
	in   chan []byte
	from chan netip.Addr
	done chan struct{}
}

func (w *wire) plug(n int) *wireNode {
	node := &wireNode{
		wire: w, addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}),
		in: make(chan []byte, 1000), from: make(chan netip.Addr, 1000), done: make(chan struct{}),
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes = append(w.nodes, node)
	return node
}

func (w *wire) traffic() (bytes int, last time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes, w.last
}

func (n *wireNode) Refresh() bool                { return false }
func (n *wireNode) Ports() map[netip.Addr]uint16 { return map[netip.Addr]uint16{n.addr: 7946} }
func (n *wireNode) Close() error                 { close(n.done); return nil }

func (n *wireNode) Send(packet []byte, from netip.Addr) error {
	n.wire.mu.Lock()
	defer n.wire.mu.Unlock()
	n.wire.bytes += len(packet) + 42 // Ethernet, IP and UDP headers
	n.wire.last = time.Now()
	for _, other := range n.wire.nodes {
		if !n.wire.deaf {
			other.in <- append([]byte(nil), packet...)
			other.from <- from
		}
	}
	return nil
}

func (n *wireNode) Receive(packet []byte) (int, netip.Addr, error) {
	select {
	case p := <-n.in:
		return copy(packet, p), <-n.from, nil
	case <-n.done:
		return 0, netip.Addr{}, net.ErrClosed
	}
}

// mdnsNode is one node's view of a wire.
type mdnsNode struct {
	id   peer.ID
	mu   sync.Mutex
	seen map[peer.ID]time.Duration // since the start of the test, first time

	conflicts int
}

func (n *mdnsNode) sees() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.seen)
}

func startMDNS(t *testing.T, w *wire, n Network, number int, start time.Time) *mdnsNode {
	return startMDNSAs(t, w, n, number, number, start)
}

func startMDNSAs(t *testing.T, w *wire, n Network, number, id int, start time.Time) *mdnsNode {
	node := &mdnsNode{id: testPeerID(t, id), seen: map[peer.ID]time.Duration{}}
	m := newMDNS(w.plug(number), Networks{Present: n}, node.id, func(info peer.AddrInfo, _ bool) {
		node.mu.Lock()
		defer node.mu.Unlock()
		if _, ok := node.seen[info.ID]; !ok {
			node.seen[info.ID] = time.Since(start)
		}
		require.Contains(t, info.Addrs[0].String(), "/ip4/192.0.2.")
	}, func(netip.Addr) {
		node.mu.Lock()
		defer node.mu.Unlock()
		node.conflicts++
	}, discardLog)
	runMDNS(t, m)
	return node
}

var discardLog = slog.New(slog.DiscardHandler)

func runMDNS(t *testing.T, m *mdns) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); m.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func TestNodesThatStartAtOneInstantSeeEachOtherWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, start := &wire{}, testToken(t).Network("a"), time.Now()
		var nodes []*mdnsNode
		for i := range 10 {
			nodes = append(nodes, startMDNS(t, w, n, i+1, start))
		}
		time.Sleep(time.Second)
		for _, node := range nodes {
			require.Equal(t, 9, node.sees())
		}
	})
}

func TestLANThatForwardsLateIsNoticedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, start := &wire{deaf: true}, testToken(t).Network("a"), time.Now()
		a, b := startMDNS(t, w, n, 1, start), startMDNS(t, w, n, 2, start)
		time.Sleep(5 * time.Second) // spanning tree, say
		w.mu.Lock()
		w.deaf = false
		w.mu.Unlock()
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, a.sees())
		require.Equal(t, 1, b.sees())
	})
}

func TestIdleLANCarriesTensOfBytesASecond(t *testing.T) {
	for _, count := range []int{2, 10, 40} {
		t.Run(fmt.Sprint(count, " nodes"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, n, start := &wire{}, testToken(t).Network("a"), time.Now()
				for i := range count {
					startMDNS(t, w, n, i+1, start)
				}
				time.Sleep(20 * time.Minute) // the rush of the start is over
				before, _ := w.traffic()
				time.Sleep(time.Hour)
				after, _ := w.traffic()
				perSecond := float64(after-before) / time.Hour.Seconds()
				t.Logf("%d nodes: %.1f bytes/s on the LAN", count, perSecond)
				require.Less(t, perSecond, 50.0)
			})
		})
	}
}

func TestQuestionIsAnsweredSoonAndNotTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, start := &wire{}, testToken(t).Network("a"), time.Now()
		startMDNS(t, w, n, 1, start)
		time.Sleep(time.Hour)
		// Ten seconds after an announcement of its own, and long before the next.
		_, last := w.traffic()
		for announced := last; last.Equal(announced); _, last = w.traffic() {
			time.Sleep(time.Second)
		}
		time.Sleep(10 * time.Second)
		stranger := w.plug(9)
		before, _ := w.traffic()
		asked := time.Now()
		codec := newMDNSCodec(n)
		require.NoError(t, stranger.Send(codec.query, stranger.addr))
		after, _ := w.traffic()
		question := after - before
		time.Sleep(time.Second)
		after, last = w.traffic()
		require.Greater(t, after-before, question)
		require.LessOrEqual(t, last.Sub(asked), 2*mdnsJitter)
		for range 1000 {
			require.NoError(t, stranger.Send(codec.query, stranger.addr))
			time.Sleep(10 * time.Millisecond)
			<-stranger.in
			<-stranger.from
		}
		after, _ = w.traffic()
		answer := after - before - 1001*question
		require.Less(t, answer, 15*250)
	})
}

func TestNetworksOnOneLANDoNotMeetAndTellNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, start := &wire{}, time.Now()
		token := testToken(t)
		nodes := []*mdnsNode{
			startMDNS(t, w, token.Network("a"), 1, start),
			startMDNS(t, w, token.Network("b"), 2, start),
			startMDNS(t, w, testToken(t).Network("a"), 3, start),
		}
		stranger := w.plug(9)
		time.Sleep(time.Minute)
		for _, node := range nodes {
			require.Zero(t, node.sees())
			for len(stranger.in) > 0 {
				require.NotContains(t, string(<-stranger.in), string(node.id))
				<-stranger.from
			}
		}
	})
}

func TestS6TwoHoldersOfOneKeyAreNoticedOnTheLAN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, start := &wire{}, testToken(t).Network("a"), time.Now()
		twins := []*mdnsNode{startMDNSAs(t, w, n, 1, 7, start), startMDNSAs(t, w, n, 2, 7, start)}
		alone := startMDNS(t, w, n, 3, start)
		time.Sleep(time.Second)
		for _, twin := range twins {
			twin.mu.Lock()
			require.NotZero(t, twin.conflicts)
			twin.mu.Unlock()
		}
		alone.mu.Lock()
		defer alone.mu.Unlock()
		require.Zero(t, alone.conflicts)
	})
}

func TestMDNSMessageOfAStrangerIsNobodys(t *testing.T) {
	token := testToken(t)
	ours, others := newMDNSCodec(token.Network("a")), newMDNSCodec(token.Network("b"))
	others.name = ours.name // a stranger has heard the name
	forged, err := others.announce(announcement{testPeerID(t, 1), 7946})
	require.NoError(t, err)
	_, _, err = ours.read(forged)
	require.ErrorIs(t, err, errNotOurs)

	packet, err := ours.announce(announcement{testPeerID(t, 1), 7946})
	require.NoError(t, err)
	require.Less(t, len(packet), 200)
	asks, a, err := ours.read(packet)
	require.NoError(t, err)
	require.False(t, asks)
	require.Equal(t, announcement{testPeerID(t, 1), 7946}, a)
	asks, _, err = ours.read(ours.query)
	require.NoError(t, err)
	require.True(t, asks)
}

func FuzzMDNSRead(f *testing.F) {
	token, err := ParseToken("muster1-aeaacaqdaqcqmbyibefawdanbyhraeiscmkbkfqxdamrugy4dupb6aaajxmfunq")
	require.NoError(f, err)
	codec := newMDNSCodec(token.Network("a"))
	packet, err := codec.announce(announcement{testPeerID(f, 1), 7946})
	require.NoError(f, err)
	f.Add(packet)
	f.Add(codec.query)
	f.Fuzz(func(t *testing.T, packet []byte) {
		asks, a, err := codec.read(packet)
		if err == nil && !asks {
			require.NoError(t, a.id.Validate())
			require.NotZero(t, a.port)
		}
	})
}
