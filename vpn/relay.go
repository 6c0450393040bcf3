package vpn

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Carrier is the mesh as the relay sees it: it opens streams on which this node
// speaks and the peer only listens. Streams that peers open are given to
// Paths.Serve. It is an interface so that a test needs no mesh.
type Carrier interface {
	// Reaches tells whether the mesh is connected to the peer; it must not block.
	Reaches(id string) bool
	Open(ctx context.Context, id string) (io.WriteCloser, error)
}

// What is on such a stream: kind (1 byte), length (2 bytes), and as many bytes.
const (
	framePacket byte = 0 // a datagram of WireGuard's
	frameRound  byte = 1 // empty: the sender is pinging all that it knows, do so too
	frameAnew   byte = 2 // empty: the sender has no session and its handshakes are not answered, forget those before
)

const (
	frameHeader = 3
	// maxPacket is what WireGuard can send: more does not fit into UDP.
	maxPacket = 65535 - frameHeader

	// relayQueue is how many packets wait for the mesh; about 350 KB. More would
	// only be delay: WireGuard's traffic retransmits by itself, so the oldest goes.
	relayQueue = 256
	// relayIdle is how long a stream without packets stays open.
	relayIdle = time.Minute
	// relayRetry is how long a peer is not asked again that could not be reached.
	relayRetry   = 2 * time.Second
	relayTimeout = 10 * time.Second
)

// proxy stands in for one peer on loopback: what WireGuard sends there goes
// through the mesh, and what comes from the mesh goes to WireGuard from there.
// So the device, in the kernel or not, only ever sees one more endpoint.
type proxy struct {
	id      string
	conn    *net.UDPConn
	carrier Carrier
	log     *slog.Logger
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	queue   chan []byte

	mu     sync.Mutex
	failed time.Time // of the last stream that could not be opened; zero: none since one was
}

func newProxy(id string, port int, carrier Carrier, log *slog.Logger) (*proxy, error) {
	// Connected, so that nobody else on this machine can speak in the peer's place.
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return nil, fmt.Errorf("relay for %s: %w", id, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &proxy{id: id, conn: conn, carrier: carrier, log: log, cancel: cancel, queue: make(chan []byte, relayQueue)}
	p.wg.Go(p.collect)
	p.wg.Go(func() { p.carry(ctx) })
	return p, nil
}

func (p *proxy) endpoint() netip.AddrPort {
	return p.conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// works tells whether the mesh has not refused lately.
func (p *proxy) works(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed.IsZero() || now.Sub(p.failed) > relayTimeout
}

// collect takes what WireGuard sends.
func (p *proxy) collect() {
	buffer := make([]byte, frameHeader+maxPacket)
	for {
		n, err := p.conn.Read(buffer[frameHeader:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // WireGuard does not listen for a moment: its port is being changed
		}
		p.enqueue(frame(framePacket, buffer[frameHeader:frameHeader+n]))
	}
}

func frame(kind byte, payload []byte) []byte {
	b := make([]byte, 0, frameHeader+len(payload))
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	return append(b, payload...)
}

// enqueue never blocks: with a full queue the oldest goes.
func (p *proxy) enqueue(b []byte) {
	for {
		select {
		case p.queue <- b:
			return
		default:
		}
		select {
		case <-p.queue:
		default:
		}
	}
}

// carry writes the queue to the mesh, and holds no stream that nobody needs.
func (p *proxy) carry(ctx context.Context) {
	var stream io.WriteCloser
	drop := func() {
		if stream != nil {
			_ = stream.Close() // all that mattered was written, or cannot be
			stream = nil
		}
	}
	defer drop()
	idle := time.NewTimer(relayIdle)
	defer idle.Stop()
	var retry time.Time
	for {
		var b []byte
		select {
		case <-ctx.Done():
			return
		case <-idle.C:
			drop()
			continue
		case b = <-p.queue:
		}
		idle.Reset(relayIdle)
		if stream == nil {
			if time.Now().Before(retry) {
				continue // dropped, as a link that is down does
			}
			var err error
			opening, cancel := context.WithTimeout(ctx, relayTimeout)
			stream, err = p.carrier.Open(opening, p.id)
			cancel()
			p.note(err)
			if err != nil {
				p.log.Debug("relay", "peer", p.id, "error", err)
				stream, retry = nil, time.Now().Add(relayRetry)
				continue
			}
		}
		if d, ok := stream.(interface{ SetWriteDeadline(time.Time) error }); ok {
			_ = d.SetWriteDeadline(time.Now().Add(relayTimeout)) // a stream without deadlines ends with its connection
		}
		if _, err := stream.Write(b); err != nil {
			p.log.Debug("relay", "peer", p.id, "error", err)
			drop()
		}
	}
}

func (p *proxy) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.failed = time.Time{}
	} else {
		p.failed = time.Now()
	}
}

// inject gives WireGuard a packet that came through the mesh.
func (p *proxy) inject(b []byte) {
	_, _ = p.conn.Write(b) // like any datagram, it may be lost
}

func (p *proxy) close() error {
	p.cancel()
	err := p.conn.Close()
	p.wg.Wait()
	return err
}

// readFrames hands on what a peer sends until its stream ends.
func readFrames(r io.Reader, packet func([]byte), round, anew func()) error {
	buffer := make([]byte, frameHeader+maxPacket)
	for {
		if _, err := io.ReadFull(r, buffer[:frameHeader]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint16(buffer[1:]))
		if n > maxPacket {
			return fmt.Errorf("relay: a frame of %d bytes, at most %d", n, maxPacket)
		}
		if _, err := io.ReadFull(r, buffer[frameHeader:frameHeader+n]); err != nil {
			return err
		}
		switch buffer[0] {
		case framePacket:
			packet(buffer[frameHeader : frameHeader+n])
		case frameRound:
			round()
		case frameAnew:
			anew()
		} // others are a later version's
	}
}
