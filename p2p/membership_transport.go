package p2p

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const (
	// gossipPort is a constant for memberlist's sake: names are what counts.
	gossipPort = 7946

	// maxGossipPacket holds the largest fact beside other news. Packets travel
	// on streams, so no MTU bounds them; memberlist's own bound is 64 KiB.
	maxGossipPacket = 16 << 10

	// packetQueue is how many packets wait for one slow peer. Old news is what
	// to drop: whatever is still true will be said again.
	packetQueue = 32

	// packetTimeout bounds opening a packet stream and writing one packet. It
	// is longer than a probe waits, so a late stream still serves the next one.
	packetTimeout = 3 * time.Second

	// packetRetry is how long packets to an unreachable peer are dropped before
	// it is dialled again on their behalf.
	packetRetry = time.Second

	// maxGossipStreams bounds how many comparisons peers may have open here.
	maxGossipStreams = 64
)

// gossipTransport lets memberlist talk over the host's streams: one long-lived
// stream per peer and direction for packets, and one stream for each comparison
// of everything. Peers are known by their authenticated IDs; the IP addresses
// that memberlist wants are made up from those and go nowhere.
//
// It is a [memberlist.NodeAwareTransport].
type gossipTransport struct {
	host    MembershipHost
	log     *slog.Logger
	packet  protocol.ID
	compare protocol.ID
	packets chan *memberlist.Packet
	streams chan net.Conn
	slots   chan struct{}
	ctx     context.Context // ends at Shutdown
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu     sync.Mutex
	closed bool
	quiet  bool // no comparison is answered any more
	queues map[peer.ID]chan []byte
}

func newGossipTransport(cfg MembershipConfig) *gossipTransport {
	t := &gossipTransport{
		host: cfg.Host, log: cfg.Log,
		packet:  protocol.ID("/muster/gossip/2/" + cfg.Label),
		compare: protocol.ID("/muster/gossip-compare/1/" + cfg.Label),
		packets: make(chan *memberlist.Packet),
		streams: make(chan net.Conn),
		slots:   make(chan struct{}, maxGossipStreams),
		queues:  make(map[peer.ID]chan []byte),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	cfg.Host.Handle(t.packet, cfg.Access, t.receivePackets)
	cfg.Host.Handle(t.compare, cfg.Access, t.receiveStream)
	return t
}

// gossipIP is a unique local address (RFC 4193) that follows from the peer ID,
// so that a changed address is always a lie.
func gossipIP(id peer.ID) net.IP {
	sum := sha256.Sum256([]byte("muster gossip address\x00" + string(id)))
	return append(net.IP{0xfd}, sum[:net.IPv6len-1]...)
}

// gossipAddress is how memberlist's Join wants it: name/address.
func gossipAddress(id peer.ID) string {
	return id.String() + "/" + net.JoinHostPort(gossipIP(id).String(), strconv.Itoa(gossipPort))
}

// FinalAdvertiseAddr implements [memberlist.Transport].
func (t *gossipTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return gossipIP(t.host.ID()), gossipPort, nil
}

// WriteTo implements [memberlist.Transport]; memberlist uses WriteToAddress.
func (t *gossipTransport) WriteTo([]byte, string) (time.Time, error) {
	return time.Time{}, errNeedsName
}

// DialTimeout implements [memberlist.Transport]; memberlist uses DialAddressTimeout.
func (t *gossipTransport) DialTimeout(string, time.Duration) (net.Conn, error) {
	return nil, errNeedsName
}

var errNeedsName = errors.New("a gossip peer is reached by its name only")

// PacketCh implements [memberlist.Transport].
func (t *gossipTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements [memberlist.Transport].
func (t *gossipTransport) StreamCh() <-chan net.Conn { return t.streams }

// WriteToAddress queues a packet and never blocks; with a full queue the oldest
// packet is dropped.
func (t *gossipTransport) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	id, err := peer.Decode(to.Name)
	if err != nil {
		return time.Time{}, fmt.Errorf("send packet: %q is not a peer ID: %w", to.Name, err)
	}
	if len(b) > maxGossipPacket+512 {
		return time.Time{}, fmt.Errorf("send packet: %d bytes, limit %d", len(b), maxGossipPacket)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return time.Time{}, ErrMembershipClosed
	}
	queue := t.queues[id]
	if queue == nil {
		queue = make(chan []byte, packetQueue)
		t.queues[id] = queue
		t.wg.Go(func() { t.sendPackets(id, queue) })
	}
	packet := bytes.Clone(b)
	for {
		select {
		case queue <- packet:
			return time.Now(), nil
		default:
		}
		select {
		case <-queue:
		default:
		}
	}
}

// packetIdle is after what silence the packet stream to a peer is given up: it
// is dead or was removed, or every probe round would have used the stream.
const packetIdle = 5 * time.Minute

func (t *gossipTransport) sendPackets(to peer.ID, queue chan []byte) {
	var s *packetStream
	var retryAt time.Time
	defer func() {
		if s != nil {
			_ = s.stream.Reset() // nobody reads what is left
		}
	}()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-time.After(packetIdle):
			if t.retire(to, queue) {
				return
			}
		case packet := <-queue:
			if s == nil && time.Now().Before(retryAt) {
				continue
			}
			var err error
			if s, err = t.sendPacket(s, to, packet); err != nil {
				retryAt = time.Now().Add(packetRetry)
				t.log.Debug("gossip packet lost", "peer", to.String(), "error", err)
			}
		}
	}
}

func (t *gossipTransport) retire(to peer.ID, queue chan []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(queue) > 0 {
		return false
	}
	delete(t.queues, to)
	return true
}

// packetStream is a stream and the packets that its other end has had.
type packetStream struct {
	stream network.Stream
	sent   packetHistory
}

// sendPacket returns the stream to use next time, nil after an error.
func (t *gossipTransport) sendPacket(s *packetStream, to peer.ID, packet []byte) (*packetStream, error) {
	if s == nil {
		ctx, cancel := context.WithTimeout(t.ctx, packetTimeout)
		defer cancel()
		stream, err := t.host.Open(ctx, to, t.packet)
		if err != nil {
			return nil, err
		}
		s = &packetStream{stream: stream}
	}
	stop := context.AfterFunc(t.ctx, func() { _ = s.stream.Reset() })
	defer stop()
	err := s.stream.SetWriteDeadline(time.Now().Add(packetTimeout))
	if err == nil {
		_, err = s.stream.Write(s.sent.encode(nil, packet))
	}
	if err != nil {
		_ = s.stream.Reset()
		return nil, err
	}
	return s, nil
}

// receivePackets reads a peer's packets until its stream ends.
func (t *gossipTransport) receivePackets(s network.Stream) {
	if !t.enter() {
		_ = s.Reset()
		return
	}
	defer t.wg.Done()
	stop := context.AfterFunc(t.ctx, func() { _ = s.Reset() })
	defer stop()
	defer func() { _ = s.Reset() }() // nothing is ever written to it

	from := gossipAddr{s.Conn().RemotePeer()}
	r := bufio.NewReader(s)
	var received packetHistory
	for {
		packet, err := received.decode(r, maxGossipPacket+512)
		if errors.Is(err, errPacketCoding) {
			t.log.Debug("gossip packet refused", "peer", from.id.String(), "error", err)
		}
		if err != nil {
			return
		}
		select {
		case t.packets <- &memberlist.Packet{Buf: packet, From: from, Timestamp: time.Now()}:
		case <-t.ctx.Done():
			return
		}
	}
}

// enter counts a goroutine that the host started, unless it is too late.
func (t *gossipTransport) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Add(1)
	return true
}

// leave ends comparisons: who still answers them counts as alive.
func (t *gossipTransport) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.quiet = true
}

func (t *gossipTransport) receiveStream(s network.Stream) {
	if !t.enter() {
		_ = s.Reset()
		return
	}
	defer t.wg.Done()
	t.mu.Lock()
	quiet := t.quiet
	t.mu.Unlock()
	if quiet {
		_ = s.Reset()
		return
	}
	select {
	case t.slots <- struct{}{}:
	default:
		_ = s.Reset()
		return
	}
	conn := t.conn(s, func() { <-t.slots })
	select {
	case t.streams <- conn:
	case <-t.ctx.Done():
		_ = conn.Close()
	}
}

// DialAddressTimeout opens a stream on which everything is compared.
func (t *gossipTransport) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	id, err := peer.Decode(to.Name)
	if err != nil {
		return nil, fmt.Errorf("open gossip stream: %q is not a peer ID: %w", to.Name, err)
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	s, err := t.host.Open(ctx, id, t.compare)
	if err != nil {
		return nil, err
	}
	return t.conn(s, func() {}), nil
}

// Shutdown ends all streams and returns when nothing uses them any more. It may
// be called twice.
func (t *gossipTransport) Shutdown() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.host.Unhandle(t.packet)
	t.host.Unhandle(t.compare)
	t.cancel()
	t.wg.Wait()
	return nil
}

// gossipConn is a stream as memberlist wants it.
type gossipConn struct {
	network.Stream
	local, remote gossipAddr
	close         func() error
}

func (t *gossipTransport) conn(s network.Stream, release func()) net.Conn {
	stop := context.AfterFunc(t.ctx, func() { _ = s.Reset() })
	return &gossipConn{
		Stream: s, local: gossipAddr{t.host.ID()}, remote: gossipAddr{s.Conn().RemotePeer()},
		close: sync.OnceValue(func() error {
			stop()
			release()
			return s.Close()
		}),
	}
}

func (c *gossipConn) Close() error         { return c.close() }
func (c *gossipConn) LocalAddr() net.Addr  { return c.local }
func (c *gossipConn) RemoteAddr() net.Addr { return c.remote }

// gossipAddr is a peer as a net.Addr.
type gossipAddr struct{ id peer.ID }

func (gossipAddr) Network() string { return "muster" }
func (a gossipAddr) String() string {
	return net.JoinHostPort(gossipIP(a.id).String(), strconv.Itoa(gossipPort))
}
