package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/muster-edge/muster/p2p"
)

// memNet is a network in memory whose links can be cut and whose bytes are
// counted.
type memNet struct {
	mu    sync.Mutex
	hosts map[peer.ID]*memHost
	cuts  map[[2]peer.ID]bool
	bytes map[protocol.ID]*atomic.Int64
}

func newMemNet() *memNet {
	return &memNet{
		hosts: map[peer.ID]*memHost{},
		cuts:  map[[2]peer.ID]bool{},
		bytes: map[protocol.ID]*atomic.Int64{},
	}
}

// memHost is one node's Host.
type memHost struct {
	net      *memNet
	id       peer.ID
	site     string
	stranger bool   // no member: only protocols for the admitted
	epoch    uint64 // of the token by which others have let it in

	mu       sync.Mutex
	up       bool
	handlers map[protocol.ID]memHandler
	streams  map[*memStream]struct{}
	wg       sync.WaitGroup
}

type memHandler struct {
	need p2p.Access
	fn   func(network.Stream)
}

func (n *memNet) host(id peer.ID, site string) *memHost {
	h := &memHost{net: n, id: id, site: site, up: true, handlers: map[protocol.ID]memHandler{}, streams: map[*memStream]struct{}{}}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[id] = h
	return h
}

func pair(a, b peer.ID) [2]peer.ID {
	if a > b {
		a, b = b, a
	}
	return [2]peer.ID{a, b}
}

// cut ends all streams between two nodes and lets no new one through.
func (n *memNet) cut(a, b peer.ID) {
	n.mu.Lock()
	n.cuts[pair(a, b)] = true
	h := n.hosts[a]
	n.mu.Unlock()
	h.reset(func(s *memStream) bool { return s.remote == b })
}

func (n *memNet) isolate(a peer.ID) {
	n.mu.Lock()
	var others []peer.ID
	for id := range n.hosts {
		if id != a {
			others = append(others, id)
		}
	}
	n.mu.Unlock()
	for _, b := range others {
		n.cut(a, b)
	}
}

func (n *memNet) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
}

func (n *memNet) reachable(a, b peer.ID) (*memHost, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h, ok := n.hosts[b]
	return h, ok && !n.cuts[pair(a, b)]
}

func (n *memNet) count(p protocol.ID) *atomic.Int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bytes[p] == nil {
		n.bytes[p] = new(atomic.Int64)
	}
	return n.bytes[p]
}

func (h *memHost) ID() peer.ID { return h.id }

func (h *memHost) Handle(proto protocol.ID, need p2p.Access, fn func(network.Stream)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handlers[proto] = memHandler{need, fn}
}

func (h *memHost) Unhandle(proto protocol.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.handlers, proto)
}

func (h *memHost) Peers() []p2p.Peer {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	var out []p2p.Peer
	for id, o := range h.net.hosts {
		if id != h.id && o.up && !h.net.cuts[pair(id, h.id)] {
			out = append(out, p2p.Peer{ID: id, Greeting: p2p.Greeting{Site: o.site}, Epoch: o.epoch})
		}
	}
	return out
}

func (h *memHost) Open(ctx context.Context, to peer.ID, proto protocol.ID) (network.Stream, error) {
	o, ok := h.net.reachable(h.id, to)
	if !ok {
		return nil, fmt.Errorf("no way to %s", short(to))
	}
	o.mu.Lock()
	handler, ok := o.handlers[proto]
	up := o.up
	o.mu.Unlock()
	if !up || !ok || (handler.need == p2p.AccessMember && h.stranger) {
		return nil, errors.New("protocol not supported")
	}
	a, b := newMemPipe(), newMemPipe()
	count := h.net.count(proto)
	near := &memStream{host: h, local: h.id, remote: to, proto: proto, in: a, out: b, count: count}
	far := &memStream{host: o, local: to, remote: h.id, proto: proto, in: b, out: a, count: count}
	near.other, far.other = far, near
	if !h.add(near, nil) {
		return nil, errors.New("host is down")
	}
	if !o.add(far, func() { handler.fn(far) }) {
		_ = near.Reset()
		return nil, errors.New("peer is down")
	}
	return near, ctx.Err()
}

func (h *memHost) add(s *memStream, serve func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.up {
		return false
	}
	h.streams[s] = struct{}{}
	if serve != nil {
		h.wg.Go(serve)
	}
	return true
}

func (h *memHost) reset(which func(*memStream) bool) {
	h.mu.Lock()
	var all []*memStream
	for s := range h.streams {
		if which(s) {
			all = append(all, s)
		}
	}
	h.mu.Unlock()
	for _, s := range all {
		_ = s.Reset()
	}
}

// down is a node that vanishes; the ledger on it does not get to say goodbye.
func (h *memHost) down() {
	h.net.mu.Lock()
	h.mu.Lock()
	h.up = false
	h.mu.Unlock()
	h.net.mu.Unlock()
	h.reset(func(*memStream) bool { return true })
	h.wg.Wait()
}

type memStream struct {
	network.Stream
	host          *memHost
	local, remote peer.ID
	proto         protocol.ID
	in, out       *memPipe
	other         *memStream
	count         *atomic.Int64
}

type memConn struct {
	network.Conn
	local, remote peer.ID
}

func (c memConn) LocalPeer() peer.ID  { return c.local }
func (c memConn) RemotePeer() peer.ID { return c.remote }

func (s *memStream) Conn() network.Conn         { return memConn{local: s.local, remote: s.remote} }
func (s *memStream) Protocol() protocol.ID      { return s.proto }
func (s *memStream) Read(p []byte) (int, error) { return s.in.read(p) }
func (s *memStream) Write(p []byte) (int, error) {
	n, err := s.out.write(p)
	s.count.Add(int64(n))
	return n, err
}
func (s *memStream) CloseWrite() error { s.out.finish(io.EOF); return nil }
func (s *memStream) CloseRead() error  { s.in.fail(io.ErrClosedPipe); return nil }

// Close fails when the other side closed first, as QUIC's does.
func (s *memStream) Close() error {
	s.forget()
	err := s.out.failure()
	s.out.finish(io.EOF)
	s.in.fail(io.ErrClosedPipe)
	return err
}

func (s *memStream) Reset() error {
	s.forget()
	s.other.forget()
	s.in.fail(network.ErrReset)
	s.out.fail(network.ErrReset)
	return nil
}

func (s *memStream) forget() {
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	delete(s.host.streams, s)
}

func (s *memStream) SetDeadline(t time.Time) error {
	s.in.deadline(t)
	return nil // writes never block here
}
func (s *memStream) SetReadDeadline(t time.Time) error { s.in.deadline(t); return nil }
func (s *memStream) SetWriteDeadline(time.Time) error  { return nil }

// memPipe is one direction of a stream, with a buffer without bounds.
type memPipe struct {
	mu     sync.Mutex
	wake   *sync.Cond
	buf    []byte
	end    error // after the buffer
	broken error // at once
	until  time.Time
	timer  *time.Timer
}

// failure is why writes fail, nil while they do not.
func (p *memPipe) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken
}

func newMemPipe() *memPipe {
	p := &memPipe{}
	p.wake = sync.NewCond(&p.mu)
	return p
}

func (p *memPipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return 0, p.broken
	}
	if p.end != nil {
		return 0, io.ErrClosedPipe
	}
	p.buf = append(p.buf, b...)
	p.wake.Broadcast()
	return len(b), nil
}

func (p *memPipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.broken != nil:
			return 0, p.broken
		case len(p.buf) > 0:
			n := copy(b, p.buf)
			p.buf = p.buf[n:]
			return n, nil
		case p.end != nil:
			return 0, p.end
		case !p.until.IsZero() && !time.Now().Before(p.until):
			return 0, os.ErrDeadlineExceeded
		}
		p.wake.Wait()
	}
}

func (p *memPipe) finish(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end == nil {
		p.end = err
	}
	p.stopTimer()
	p.wake.Broadcast()
}

func (p *memPipe) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken == nil {
		p.broken = err
	}
	p.stopTimer()
	p.wake.Broadcast()
}

func (p *memPipe) deadline(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopTimer()
	p.until = t
	if !t.IsZero() && p.broken == nil {
		p.timer = time.AfterFunc(time.Until(t)+time.Millisecond, p.wake.Broadcast)
	}
	p.wake.Broadcast()
}

func (p *memPipe) stopTimer() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}
