package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	// admissionDeadline bounds a whole handshake: two and a half round trips,
	// with room for loss on the worst of links.
	admissionDeadline = 10 * time.Second

	// refusalPatience is how long a refused peer may take to hear why.
	refusalPatience = 2 * time.Second

	// Strangers are whoever has no record, newcomers included. They share these
	// places, so that a flood of them costs bounded memory and can neither keep
	// members out nor, from one address, other newcomers.
	maxStrangers           = 128
	maxStrangersPerAddress = 32

	// refusalLogInterval is how often one reason is logged; what comes in
	// between is counted.
	refusalLogInterval = 10 * time.Second
)

// ErrIdentityConflict means that somebody else holds this node's key: a disk was
// cloned, or a key was stolen.
var ErrIdentityConflict = errors.New("another node holds the same identity")

// errCrowded means that too many strangers were at the door.
var errCrowded = errors.New("too many strangers at once")

// gate runs admission on fresh connections, before libp2p's swarm, and with it
// identify and every other protocol, learns that they exist.
type gate struct {
	self       peer.ID
	enrolment  func() enrolmentKeys
	standing   func(peer.ID) Standing
	salutation func() salutation
	conflict   func(from netip.Addr)          // somebody has our key
	ourselves  func(peer.ID) bool             // this node's own probe
	refused    func(by peer.ID, reason error) // somebody who may says why it refuses us
	deadline   time.Duration
	log        *slog.Logger
	strangers  doorway
	refusals   refusals
}

// admittedConn is a connection whose two ends accept each other.
type admittedConn struct {
	transport.CapableConn
	theirs salutation
	told   uint64 // sequence of the greeting that we gave
	epoch  uint64 // of the token by which a newcomer was let in
}

// As finds the admission behind a connection that the swarm hands out.
func (c *admittedConn) As(target any) bool {
	if t, ok := target.(**admittedConn); ok {
		*t = c
		return true
	}
	return c.CapableConn.As(target)
}

// admit returns the connection once both ends accept, or closes it without a word.
func (g *gate) admit(ctx context.Context, conn transport.CapableConn, role admissionRole) (*admittedConn, error) {
	admitted, err := g.handshake(ctx, conn, role)
	if err != nil {
		// Closing is all that a stranger is told; an error in it changes nothing.
		_ = conn.Close()
		g.refusals.note(g.log, conn, role, err)
		return nil, fmt.Errorf("admission of %s: %w", conn.RemotePeer(), err)
	}
	return admitted, nil
}

func (g *gate) handshake(ctx context.Context, conn transport.CapableConn, role admissionRole) (*admittedConn, error) {
	remote := conn.RemotePeer()
	if remote == g.self {
		g.conflict(remoteAddress(conn))
		return nil, ErrIdentityConflict
	}
	if role == roleListener && g.ourselves(remote) {
		return nil, errLeft
	}
	standing := g.standing(remote)
	if standing == StandingRevoked && role == roleDialer {
		return nil, ErrRevoked
	}
	if standing != StandingMember && role == roleListener {
		leave, ok := g.strangers.enter(conn)
		if !ok {
			return nil, errCrowded
		}
		defer leave()
	}

	ctx, cancel := context.WithTimeout(ctx, g.deadline)
	defer cancel()
	// Neither accepting a stream nor reading from it knows contexts.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()

	stream, err := openAdmission(ctx, conn, role)
	if err != nil {
		return nil, admissionEnd(ctx, left(role, err))
	}
	binding, err := channelBinding(conn)
	if err != nil {
		return nil, err
	}
	keys := g.enrolment()
	ours := g.salutation()
	theirs, err := handshake{
		role: role, local: g.self, remote: remote, binding: binding,
		keys: keys, standing: standing, salutation: ours,
	}.run(stream)
	if err != nil {
		g.noteRefusal(remote, standing, role, err)
		g.part(stream, role, err)
		return nil, admissionEnd(ctx, err)
	}
	// All is said; a stream that ends badly cannot unsay it.
	_ = stream.Close()
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return &admittedConn{CapableConn: conn, theirs: theirs, told: ours.Sequence, epoch: keys.epoch}, nil
}

// noteRefusal keeps what a peer that can know said of this node: of its token
// whoever proved that token, of its identity a member.
func (g *gate) noteRefusal(remote peer.ID, standing Standing, role admissionRole, err error) {
	if role != roleDialer || g.refused == nil {
		return
	}
	if errors.Is(err, ErrTokenReplaced) || errors.Is(err, ErrRevokedThere) && standing == StandingMember {
		g.refused(remote, err)
	}
}

// part ends the stream of a refusal. What was said to a dialer has to reach it
// before the connection ends: it is waited for until it hangs up, or the deadline.
func (g *gate) part(stream network.MuxedStream, role admissionRole, err error) {
	if role == roleListener && (errors.Is(err, ErrTokenReplaced) || errors.Is(err, ErrRevoked)) {
		_ = stream.CloseWrite()
		_ = stream.SetReadDeadline(time.Now().Add(refusalPatience))
		_, _ = io.Copy(io.Discard, io.LimitReader(stream, maxAdmissionBody))
	}
	_ = stream.Reset()
}

func openAdmission(ctx context.Context, conn transport.CapableConn, role admissionRole) (network.MuxedStream, error) {
	if role == roleDialer {
		return conn.OpenStream(ctx)
	}
	return conn.AcceptStream()
}

// admissionEnd names the deadline where it, by closing the connection, caused err.
func admissionEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// doorway counts the strangers in admission.
type doorway struct {
	mu        sync.Mutex
	all       int
	byAddress map[netip.Addr]int
}

func (d *doorway) enter(conn network.ConnMultiaddrs) (leave func(), ok bool) {
	from := remoteAddress(conn)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all >= maxStrangers || d.byAddress[from] >= maxStrangersPerAddress {
		return nil, false
	}
	if d.byAddress == nil {
		d.byAddress = map[netip.Addr]int{}
	}
	d.all++
	d.byAddress[from]++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.all--
		if d.byAddress[from]--; d.byAddress[from] == 0 {
			delete(d.byAddress, from)
		}
	}, true
}

// remoteAddress is whom a stranger is counted as: an IPv4 address, or the /64
// that one IPv6 host can fill with addresses.
func remoteAddress(conn network.ConnMultiaddrs) netip.Addr {
	ip, err := manet.ToIP(conn.RemoteMultiaddr())
	if err != nil {
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice(ip)
	addr = addr.Unmap()
	if addr.Is6() {
		prefix, err := addr.WithZone("").Prefix(64)
		if err == nil {
			return prefix.Addr()
		}
	}
	return addr
}

// refusals counts why connections were not admitted, and logs some of them.
type refusals struct {
	mu     sync.Mutex
	count  map[string]uint64
	logged map[string]time.Time
}

func (r *refusals) note(log *slog.Logger, conn transport.CapableConn, role admissionRole, err error) {
	reason := refusalReason(err)
	now := time.Now()
	r.mu.Lock()
	if r.count == nil {
		r.count, r.logged = map[string]uint64{}, map[string]time.Time{}
	}
	r.count[reason]++
	count := r.count[reason]
	last, before := r.logged[reason]
	due := !before || now.Sub(last) >= refusalLogInterval
	if due {
		r.logged[reason] = now
	}
	r.mu.Unlock()
	if due {
		level := slog.LevelWarn
		if reason == "cancelled" || reason == "left" {
			level = slog.LevelDebug // a dial that became needless, a probe
		}
		log.Log(context.Background(), level, "peer not admitted", "peer", conn.RemotePeer().String(), "addr", conn.RemoteMultiaddr().String(),
			"dialled", role == roleDialer, "reason", reason, "total", count, "error", err)
	}
}

func (r *refusals) snapshot() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]uint64, len(r.count))
	for reason, n := range r.count {
		out[reason] = n
	}
	return out
}

func refusalReason(err error) string {
	switch {
	case errors.Is(err, ErrIdentityConflict):
		return "identity_conflict"
	case errors.Is(err, ErrRevoked):
		return "revoked"
	case errors.Is(err, ErrTokenReplaced):
		return "token_replaced"
	case errors.Is(err, ErrRevokedThere):
		return "revoked_there"
	case errors.Is(err, ErrNotProved):
		return "not_proved"
	case errors.Is(err, ErrNotMuster):
		return "not_muster"
	case errors.Is(err, errLeft):
		return "left"
	case errors.Is(err, ErrHungUp):
		return "hung_up"
	case errors.Is(err, errCrowded):
		return "crowded"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	}
	return "other"
}
