package p2p

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
)

// admittingTransports are libp2p's QUIC and TCP with the gate in front of them. It
// leaves the upgrader that they share in upgrader.
func admittingTransports(g *gate, upgrader *transport.Upgrader) libp2p.Option {
	return libp2p.ChainOptions(
		libp2p.Transport(func(key crypto.PrivKey, cm *quicreuse.ConnManager, psk pnet.PSK, gater connmgr.ConnectionGater, rcmgr network.ResourceManager) (*admittingTransport, error) {
			inner, err := libp2pquic.NewTransport(key, cm, psk, gater, rcmgr)
			return &admittingTransport{Transport: inner, gate: g}, err
		}),
		libp2p.Transport(func(shared transport.Upgrader, rcmgr network.ResourceManager) (*admittingTCP, error) {
			*upgrader = shared
			inner, err := tcp.NewTCPTransport(shared, rcmgr, nil)
			return &admittingTCP{admittingTransport{Transport: inner, gate: g}, inner}, err
		}),
	)
}

// admittingTransport hands out no connection that did not pass the gate.
type admittingTransport struct {
	transport.Transport
	gate *gate
}

func (t *admittingTransport) Dial(ctx context.Context, addr multiaddr.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	conn, err := t.Transport.Dial(ctx, addr, p)
	if err != nil {
		return nil, err
	}
	return t.admitDialled(ctx, conn)
}

func (t *admittingTransport) admitDialled(ctx context.Context, conn transport.CapableConn) (transport.CapableConn, error) {
	admitted, err := t.gate.admit(ctx, conn, roleDialer)
	if err != nil {
		return nil, err // a nil *admittedConn must not become an interface that is not nil
	}
	return admitted, nil
}

func (t *admittingTransport) Listen(addr multiaddr.Multiaddr) (transport.Listener, error) {
	inner, err := t.Transport.Listen(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &admittingListener{
		Listener: inner, gate: t.gate, ctx: ctx, cancel: cancel,
		admitted: make(chan transport.CapableConn), failed: make(chan struct{}),
	}
	l.wg.Go(l.acceptAll)
	return l, nil
}

// admittingTCP passes on how far a dial has come, by which the swarm paces the
// dials to a peer's other addresses.
type admittingTCP struct {
	admittingTransport
	tcp *tcp.TcpTransport
}

func (t *admittingTCP) DialWithUpdates(ctx context.Context, addr multiaddr.Multiaddr, p peer.ID, updates chan<- transport.DialUpdate) (transport.CapableConn, error) {
	conn, err := t.tcp.DialWithUpdates(ctx, addr, p, updates)
	if err != nil {
		return nil, err
	}
	return t.admitDialled(ctx, conn)
}

// admittingListener proves many connections at a time and accepts those that passed.
type admittingListener struct {
	transport.Listener
	gate     *gate
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	admitted chan transport.CapableConn
	failed   chan struct{} // closed when inner accepts no more, after err is set
	err      error
}

func (l *admittingListener) Accept() (transport.CapableConn, error) {
	select {
	case conn := <-l.admitted:
		return conn, nil
	case <-l.failed:
		return nil, l.err
	}
}

func (l *admittingListener) Close() error {
	l.cancel()
	err := l.Listener.Close()
	l.wg.Wait()
	return err
}

func (l *admittingListener) acceptAll() {
	defer close(l.failed)
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			l.err = err
			return
		}
		l.wg.Go(func() {
			admitted, err := l.gate.admit(l.ctx, conn, roleListener)
			if err != nil {
				return // noted by the gate; the dialer is told nothing
			}
			select {
			case l.admitted <- admitted:
			case <-l.ctx.Done():
				_ = admitted.Close() // on the way down
			}
		})
	}
}

// exporterLabel names our use of the TLS session's keying material (RFC 5705).
const exporterLabel = "EXPORTER-muster-admission"

type tlsBinding []byte

// channelBinding returns what only the two ends of this one TLS session know.
func channelBinding(conn transport.CapableConn) ([]byte, error) {
	var binding tlsBinding
	if conn.As(&binding) {
		return binding, nil
	}
	var q *quic.Conn
	if conn.As(&q) {
		return exportBinding(q.ConnectionState().TLS)
	}
	return nil, errors.New("channel binding: neither QUIC nor TLS")
}

func exportBinding(state tls.ConnectionState) ([]byte, error) {
	b, err := state.ExportKeyingMaterial(exporterLabel, nil, 32)
	if err != nil {
		return nil, fmt.Errorf("channel binding: %w", err)
	}
	return b, nil
}

// bindingMuxer is yamux that remembers the TLS session below it: the muxer is
// the last that sees it, and what it returns is the first that we see.
type bindingMuxer struct{ network.Multiplexer }

func newBindingMuxer() network.Multiplexer { return bindingMuxer{yamux.DefaultTransport} }

func (m bindingMuxer) NewConn(c net.Conn, server bool, scope network.PeerScope) (network.MuxedConn, error) {
	session, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil, errors.New("channel binding: a TCP connection without TLS")
	}
	binding, err := exportBinding(session.ConnectionState())
	if err != nil {
		return nil, err
	}
	muxed, err := m.Multiplexer.NewConn(c, server, scope)
	if err != nil {
		return nil, err
	}
	return &boundConn{muxed, binding}, nil
}

type boundConn struct {
	network.MuxedConn
	binding tlsBinding
}

func (c *boundConn) As(target any) bool {
	if t, ok := target.(*tlsBinding); ok {
		*t = c.binding
		return true
	}
	return c.MuxedConn.As(target)
}
