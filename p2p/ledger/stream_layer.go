package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/muster-edge/muster/p2p"
)

// hello opens every Raft stream, both ways. It is how a voter learns that
// another one is up, and whether a coordinator is known there.
type hello struct {
	Version int    `json:"version"`
	Server  string `json:"server"`           // Raft server ID of the sender
	Leader  string `json:"leader,omitempty"` // Raft server ID of the coordinator that the sender knows
	Last    uint64 `json:"last"`             // last index in the sender's log
	Probe   bool   `json:"probe,omitempty"`  // only asking; no Raft messages follow
}

const helloTimeout = 3 * time.Second

// streamLayer carries Raft's connections over streams of the mesh. Addresses
// are peer IDs: they stay what they are when the IP addresses change (S19).
type streamLayer struct {
	host  Host
	proto protocol.ID
	hello func() hello
	voter func(peer.ID) bool // may this member speak Raft to us

	accepted chan net.Conn
	done     chan struct{}

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]struct{} // raft forgets inbound ones at shutdown
}

func newStreamLayer(host Host, site Site, say func() hello, voter func(peer.ID) bool) *streamLayer {
	return &streamLayer{
		host:     host,
		proto:    ProtocolRaft(site),
		hello:    say,
		voter:    voter,
		accepted: make(chan net.Conn),
		done:     make(chan struct{}),
		open:     map[net.Conn]struct{}{},
	}
}

// listen begins to take streams. Called when Raft is there to answer them, so
// that an answered hello means a live voter.
func (l *streamLayer) listen() { l.host.Handle(l.proto, p2p.AccessMember, l.handle) }

// handle takes a stream of another master. Raft believes whoever names a higher
// term, so a worker that could speak to it would decide for the site.
func (l *streamLayer) handle(s network.Stream) {
	if !l.voter(s.Conn().RemotePeer()) {
		_ = s.Reset() // refusing is all there is to do
		return
	}
	conn, ok := l.track(s)
	if !ok {
		return
	}
	theirs, err := conn.exchange(l.hello())
	if err != nil || theirs.Probe {
		_ = conn.Close() // the other side sees the end, whatever Close says
		return
	}
	select {
	case l.accepted <- conn:
	case <-l.done:
		_ = conn.Close() // shutting down
	}
}

// Accept implements net.Listener.
func (l *streamLayer) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It ends every connection too.
func (l *streamLayer) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		l.host.Unhandle(l.proto)
		close(l.done)
	}
	conns := slices.Collect(maps.Keys(l.open))
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close() // shutting down
	}
	return nil
}

// track makes a connection that Close will end. A closed layer resets it.
func (l *streamLayer) track(s network.Stream) (*streamConn, bool) {
	conn := &streamConn{
		Stream: s,
		layer:  l,
		in:     &deltaReader{r: bufio.NewReader(s)},
		out:    &deltaWriter{w: s},
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = s.Reset() // nobody to tell
		return nil, false
	}
	l.open[conn] = struct{}{}
	return conn, true
}

func (l *streamLayer) untrack(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}

// Addr implements net.Listener; raft takes it for its own address.
func (l *streamLayer) Addr() net.Addr { return peerAddr(l.host.ID()) }

// Dial implements raft.StreamLayer. The address of a voter that took its seat later is its whole server ID, and
// nobody else answers there: what a node that lost its seat and took another one
// acknowledges must not count for the old one (history S5).
func (l *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, ok := serverPeer(raft.ServerID(address))
	if !ok {
		return nil, fmt.Errorf("dial voter %q: not a peer ID", address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, theirs, err := l.reach(ctx, id, false)
	if err == nil && string(address) != id.String() && theirs.Server != string(address) {
		_ = conn.Close() // it is not who was called
		return nil, fmt.Errorf("dial voter %s: it answers with another storage", short(id))
	}
	return conn, err
}

// ask says hello to another voter and returns its answer.
func (l *streamLayer) ask(ctx context.Context, id peer.ID) (hello, error) {
	conn, theirs, err := l.reach(ctx, id, true)
	if err != nil {
		return hello{}, err
	}
	_ = conn.Close() // it has answered, and may have closed first
	return theirs, nil
}

func (l *streamLayer) reach(ctx context.Context, id peer.ID, probe bool) (net.Conn, hello, error) {
	s, err := l.host.Open(ctx, id, l.proto)
	if err != nil {
		return nil, hello{}, fmt.Errorf("dial voter %s: %w", short(id), err)
	}
	conn, ok := l.track(s)
	if !ok {
		return nil, hello{}, net.ErrClosed
	}
	mine := l.hello()
	mine.Probe = probe
	theirs, err := conn.exchange(mine)
	if err != nil {
		_ = conn.Close() // the exchange's error says more
		return nil, hello{}, fmt.Errorf("dial voter %s: %w", short(id), err)
	}
	return conn, theirs, nil
}

// streamConn is a libp2p stream as a net.Conn.
type streamConn struct {
	network.Stream
	layer *streamLayer
	in    *deltaReader
	out   *deltaWriter
}

func (c *streamConn) exchange(mine hello) (hello, error) {
	if err := c.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return hello{}, err
	}
	var theirs hello
	if err := writeMessage(c.Stream, mine); err != nil {
		return hello{}, err
	}
	if err := readMessage(c.in.r, &theirs); err != nil {
		return hello{}, err
	}
	if theirs.Version != 1 {
		return hello{}, fmt.Errorf("unknown version %d of the Raft stream", theirs.Version)
	}
	return theirs, c.SetDeadline(time.Time{})
}

func (c *streamConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *streamConn) Write(p []byte) (int, error) { return c.out.Write(p) }

// Close ends both directions at once: raft closes a connection only when it is
// done with it or has given up on it.
func (c *streamConn) Close() error {
	c.layer.untrack(c)
	return errors.Join(c.Stream.CloseWrite(), c.Stream.Close())
}

func (c *streamConn) LocalAddr() net.Addr  { return peerAddr(c.Stream.Conn().LocalPeer()) }
func (c *streamConn) RemoteAddr() net.Addr { return peerAddr(c.Stream.Conn().RemotePeer()) }

type peerAddr peer.ID

func (peerAddr) Network() string  { return "muster" }
func (a peerAddr) String() string { return peer.ID(a).String() }
