package p2p

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	libp2phost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// HostConfig is what a host is made of. Identity and Network are required.
type HostConfig struct {
	Identity *Identity
	Network  Network

	// Port is both the UDP port of QUIC and the TCP port; 0 takes one that is
	// free for both.
	Port int
	// Listen are the addresses to listen on; none means all of the machine's.
	Listen []netip.Addr
	// Hidden reports addresses that must be neither announced nor dialled: the
	// mesh's own, over which the mesh cannot be built. Nil hides none.
	Hidden func(netip.Addr) bool

	// Standing says what the ledger knows of a peer. It is asked at admission and
	// again for every stream, from any goroutine, and must not block. Nil knows
	// nobody.
	Standing func(peer.ID) Standing
	// Greeting is told to every admitted peer, see SetGreeting.
	Greeting Greeting

	Log *slog.Logger // nil discards
}

// Access is what a protocol asks of the peer that opens a stream.
type Access int

const (
	AccessAdmitted Access = iota // a member, or a newcomer that knows the token
	AccessMember                 // a member by the ledger, at the time of the stream
)

// Peer is a connected node.
type Peer struct {
	ID       peer.ID
	Greeting Greeting
	Addr     multiaddr.Multiaddr // where we see it
	Standing Standing
	// Epoch is the enrolment epoch whose token let a newcomer in.
	Epoch uint64
}

// Host is this node among its peers: a libp2p host that only ever has connections
// to peers that were admitted. All methods may be called from any goroutine.
type Host struct {
	inner    libp2phost.Host
	relay    *relay.Relay
	self     peer.ID
	gate     *gate
	standing func(peer.ID) Standing
	hidden   func(netip.Addr) bool
	log      *slog.Logger
	changed  Notifier
	ctx      context.Context // ends at Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	doubled  chan struct{} // a peer has more than one connection

	mu     sync.Mutex
	ours   salutation
	peers  map[peer.ID]*peerState
	closed bool

	networks Networks
	keys     enrolmentKeys // of networks
	refused  map[peer.ID]Refusal

	conflictAt   time.Time // last seen; see IdentityConflict
	conflictFrom netip.Addr

	masks map[peer.ID]bool // of probes under way; true: it came here
}

const (
	// identifyVersion is the protocol version that members tell each other.
	identifyVersion = "muster/1"

	// openTimeout bounds Open for callers without a deadline of their own.
	openTimeout = 15 * time.Second

	dialTimeout = 15 * time.Second
)

// NewHost starts a host. It fails if it cannot listen with both transports on
// every address asked for.
func NewHost(cfg HostConfig) (*Host, error) {
	if cfg.Identity == nil || cfg.Network.prk == nil {
		return nil, errors.New("start host: identity and network are required")
	}
	if len(cfg.Greeting.Site) > maxSite {
		return nil, fmt.Errorf("start host: site name of %d bytes, at most %d are allowed", len(cfg.Greeting.Site), maxSite)
	}
	if cfg.Standing == nil {
		cfg.Standing = func(peer.ID) Standing { return StandingUnknown }
	}
	if cfg.Hidden == nil {
		cfg.Hidden = func(netip.Addr) bool { return false }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h := &Host{
		self:     cfg.Identity.ID(),
		standing: cfg.Standing,
		hidden:   cfg.Hidden,
		log:      cfg.Log,
		doubled:  make(chan struct{}, 1),
		ours:     salutation{Greeting: cfg.Greeting, Instance: newInstance(), Sequence: 1},
		peers:    map[peer.ID]*peerState{},
		masks:    map[peer.ID]bool{},
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.networks, h.keys = Networks{Present: cfg.Network}, Networks{Present: cfg.Network}.enrolmentKeys()
	h.gate = &gate{
		self:       h.self,
		enrolment:  h.enrolment,
		refused:    h.noteRefused,
		standing:   cfg.Standing,
		salutation: h.salutation,
		conflict:   h.noteConflict,
		ourselves:  h.unmask,
		deadline:   admissionDeadline,
		log:        cfg.Log,
	}
	if err := h.listen(cfg); err != nil {
		h.cancel()
		return nil, fmt.Errorf("start host: %w", err)
	}
	h.inner.Network().Notify(&network.NotifyBundle{
		ConnectedF:    func(_ network.Network, c network.Conn) { h.refresh(c.RemotePeer()) },
		DisconnectedF: func(_ network.Network, c network.Conn) { h.refresh(c.RemotePeer()) },
	})
	for _, p := range h.inner.Network().Peers() {
		h.refresh(p) // came between listening and Notify
	}
	h.Handle(greetProtocol, AccessAdmitted, h.handleGreet)
	h.wg.Go(h.mergeConnections)
	return h, nil
}

// Handle serves proto to peers with the access it needs. Access is judged at the
// time of each stream, so that a newcomer becomes a member without reconnecting.
// fn owns the stream, runs in a goroutine of its own, and sets its deadlines.
func (h *Host) Handle(proto protocol.ID, need Access, fn func(network.Stream)) {
	h.inner.SetStreamHandler(proto, func(s network.Stream) {
		if err := h.allow(s.Conn().RemotePeer(), need); err != nil {
			h.log.Debug("stream refused", "peer", s.Conn().RemotePeer().String(), "protocol", string(proto), "error", err)
			_ = s.Reset() // refusing is all there is to do
			return
		}
		fn(s)
	})
}

// Unhandle stops serving proto. Streams that are open stay open.
func (h *Host) Unhandle(proto protocol.ID) { h.inner.RemoveStreamHandler(proto) }

// Open opens a stream to a peer, connecting to an address that is known if there
// is no connection.
func (h *Host) Open(ctx context.Context, p peer.ID, proto protocol.ID) (network.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if h.standing(p) == StandingRevoked {
		return nil, fmt.Errorf("open %s to %s: %w", proto, p, ErrRevoked)
	}
	s, err := h.inner.NewStream(ctx, p, proto)
	if err != nil {
		return nil, fmt.Errorf("open %s to %s: %w", proto, p, err)
	}
	return s, nil
}

// Connect returns once the peer is connected and both ends have admitted each
// other. The addresses are tried beside those already known.
func (h *Host) Connect(ctx context.Context, info peer.AddrInfo) error {
	if h.standing(info.ID) == StandingRevoked {
		return fmt.Errorf("connect to %s: %w", info.ID, ErrRevoked)
	}
	// The swarm would refuse addresses that failed in the last minutes, up to
	// five of them; how often to try is our callers' business.
	if s, ok := h.inner.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(info.ID)
	}
	if err := h.inner.Connect(ctx, info); err != nil {
		return fmt.Errorf("connect to %s: %w", info.ID, err)
	}
	return nil
}

// Disconnect closes every connection to a peer. Streams on them are reset.
func (h *Host) Disconnect(p peer.ID) {
	if err := h.inner.Network().ClosePeer(p); err != nil {
		h.log.Debug("close connection", "peer", p.String(), "error", err)
	}
}

// Peers returns the connected peers, ordered by ID.
func (h *Host) Peers() []Peer {
	h.mu.Lock()
	out := make([]Peer, 0, len(h.peers))
	for id, p := range h.peers {
		out = append(out, Peer{ID: id, Greeting: p.theirs.Greeting, Addr: p.addr, Epoch: p.epoch})
	}
	h.mu.Unlock()
	for i := range out {
		out[i].Standing = h.standing(out[i].ID)
	}
	slices.SortFunc(out, func(a, b Peer) int { return compareIDs(a.ID, b.ID) })
	return out
}

// Changed is closed when a peer came, went, or greeted anew.
func (h *Host) Changed() <-chan struct{} { return h.changed.Changed() }

// ID returns this node's peer ID.
func (h *Host) ID() peer.ID { return h.self }

// Addrs returns the addresses that others may reach this node at, interfaces
// resolved, without loopback unless there is nothing else.
func (h *Host) Addrs() []multiaddr.Multiaddr { return h.inner.Addrs() }

// Refusals counts connections that were not admitted, by reason: "identity_conflict",
// "revoked", "token_replaced", "revoked_there", "not_proved", "not_muster", "hung_up", "left", "crowded", "deadline",
// "cancelled", "other".
func (h *Host) Refusals() map[string]uint64 { return h.gate.refusals.snapshot() }

// Close closes all connections and waits for what the host started.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	err := errors.Join(h.relay.Close(), h.inner.Close())
	h.wg.Wait()
	return err
}

// allow judges a peer that is connected.
func (h *Host) allow(p peer.ID, need Access) error {
	switch standing := h.standing(p); {
	case standing == StandingRevoked:
		h.Disconnect(p)
		return ErrRevoked
	case need == AccessMember && standing != StandingMember:
		return errors.New("for members only")
	}
	return nil
}

// portAttempts bounds the search for a number that is free for UDP and TCP.
const portAttempts = 16

func (h *Host) listen(cfg HostConfig) error {
	if cfg.Port != 0 {
		return h.listenOn(cfg, cfg.Port)
	}
	var err error
	for range portAttempts {
		var port int
		if port, err = freeTCPPort(); err != nil {
			return err
		}
		if err = h.listenOn(cfg, port); !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
	return err
}

func (h *Host) listenOn(cfg HostConfig, port int) error {
	limits, err := newResourceManager()
	if err != nil {
		return err
	}
	var upgrader transport.Upgrader
	inner, err := libp2p.New(
		libp2p.Identity(cfg.Identity.PrivateKey()),
		libp2p.NoListenAddrs,
		admittingTransports(h.gate, &upgrader),
		libp2p.Security(libp2ptls.ID, libp2ptls.New),
		libp2p.Muxer(yamux.ID, newBindingMuxer()),
		libp2p.ResourceManager(limits),
		// Nothing to trim: members are wanted for as long as they are members.
		libp2p.ConnectionManager(connmgr.NullConnMgr{}),
		libp2p.ConnectionGater(hostGater{h}),
		libp2p.AddrsFactory(h.announced),
		libp2p.WithDialTimeout(dialTimeout),
		libp2p.SwarmOpts(swarm.WithDialRanker(quicFirst)),
		libp2p.UserAgent(identifyVersion),
		libp2p.ProtocolVersion(identifyVersion),
		// What talks while nobody has anything to say, or is not ours to need.
		// Libp2p's own relay knows no gate: see relaying.
		libp2p.Ping(false),
		libp2p.DisableRelay(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.ForceReachabilityPublic(),
		libp2p.DisableMetrics(),
		// A site without Internet is no reason to give up on UDP or IPv6.
		libp2p.UDPBlackHoleSuccessCounter(nil),
		libp2p.IPv6BlackHoleSuccessCounter(nil),
	)
	if err != nil {
		return err
	}
	h.inner = inner
	if err := h.relaying(upgrader); err != nil {
		return errors.Join(err, inner.Close())
	}
	if err := listenAll(inner, cfg.Listen, port); err != nil {
		return errors.Join(err, h.relay.Close(), inner.Close())
	}
	return nil
}

func listenAll(inner libp2phost.Host, addrs []netip.Addr, port int) error {
	optional := len(addrs) == 0
	if optional {
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	listening := 0
	var errs []error
	for _, addr := range addrs {
		err := inner.Network().Listen(transportAddrs(addr, port)[0])
		if err == nil {
			err = inner.Network().Listen(transportAddrs(addr, port)[1])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("listen on %s: %w", netip.AddrPortFrom(addr, uint16(port)), err))
			continue
		}
		listening++
	}
	// A kernel without IPv6, or without IPv4, is a kernel to run on.
	if optional && listening > 0 && !slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }) {
		return nil
	}
	return errors.Join(errs...)
}

// transportAddrs are the multiaddrs of QUIC and of TCP on one port number.
func transportAddrs(addr netip.Addr, port int) [2]multiaddr.Multiaddr {
	ip := "/ip4/"
	if addr.Is6() {
		ip = "/ip6/"
	}
	base := ip + addr.String()
	number := strconv.Itoa(port)
	return [2]multiaddr.Multiaddr{
		multiaddr.StringCast(base + "/udp/" + number + "/quic-v1"),
		multiaddr.StringCast(base + "/tcp/" + number),
	}
}

func freeTCPPort() (int, error) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// announced filters the addresses that identify and discovery give away.
func (h *Host) announced(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	var loopback, rest []multiaddr.Multiaddr
	for _, addr := range addrs {
		switch {
		case h.isHidden(addr):
		case manet.IsIPLoopback(addr):
			loopback = append(loopback, addr)
		default:
			rest = append(rest, addr)
		}
	}
	if len(rest) == 0 {
		return loopback
	}
	return rest
}

func (h *Host) isHidden(addr multiaddr.Multiaddr) bool {
	ip, err := manet.ToIP(addr)
	if err != nil {
		return false // a name; what it resolves to is judged when it is dialled
	}
	a, ok := netip.AddrFromSlice(ip)
	return ok && h.hidden(a.Unmap())
}

// hostGater stops dials before they cost anything. What comes in is judged by
// the gate, which knows more.
type hostGater struct{ h *Host }

var _ connmgr.ConnectionGater = hostGater{}

func (g hostGater) InterceptPeerDial(p peer.ID) bool {
	return g.h.standing(p) != StandingRevoked
}

func (g hostGater) InterceptAddrDial(_ peer.ID, addr multiaddr.Multiaddr) bool {
	return !g.h.isHidden(addr)
}

func (g hostGater) InterceptAccept(network.ConnMultiaddrs) bool { return true }

func (g hostGater) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	return true
}

func (g hostGater) InterceptUpgraded(network.Conn) (allow bool, reason control.DisconnectReason) {
	return true, 0
}

func newInstance() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

func compareIDs(a, b peer.ID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
