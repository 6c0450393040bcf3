package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/multiformats/go-multiaddr"
)

// Nodes that cannot reach each other meet through one that both reach: circuit
// relay v2, which every node offers to its own site. Libp2p's limits are for
// strangers on a public network (128 KiB and two minutes for each connection);
// among members a connection that ends every two minutes is worth nothing.
const (
	// reservationTime is libp2p's default. A reservation also ends with the
	// connection to the relay.
	reservationTime = time.Hour
	// relayBuffer is twice allocated for each relayed connection.
	relayBuffer = 16 << 10
)

func memberResources() relay.Resources {
	return relay.Resources{
		ReservationTTL:         reservationTime,
		MaxReservations:        2 * maxMembers,
		MaxCircuits:            2 * maxMembers,
		BufferSize:             relayBuffer,
		MaxReservationsPerPeer: 1,
		MaxReservationsPerIP:   connsPerIP,
		MaxReservationsPerASN:  2 * maxMembers,
	}
}

// relaying lets the host dial and be dialled through others, and be a relay
// itself. The upgrader is the swarm's own, so a relayed connection is secured
// from end to end, and the gate stands before it as before any other.
func (h *Host) relaying(upgrader transport.Upgrader) error {
	swarm, ok := h.inner.Network().(transport.TransportNetwork)
	if !ok {
		return errors.New("relay: the network takes no transports")
	}
	circuits, err := client.New(h.inner, upgrader)
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	if err := swarm.AddTransport(&admittingCircuit{admittingTransport{Transport: circuits, gate: h.gate}, circuits}); err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	if err := h.inner.Network().Listen(multiaddr.StringCast("/p2p-circuit")); err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	circuits.Start()
	h.relay, err = relay.New(h.inner, relay.WithResources(memberResources()), relay.WithACL(relayACL{h}),
		relay.WithReservationAddressFilter(func(multiaddr.Multiaddr) bool { return true }))
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	return nil
}

// admittingCircuit is the transport of relayed connections behind the gate.
type admittingCircuit struct {
	admittingTransport
	circuits *client.Client
}

var (
	_ transport.SkipResolver = (*admittingCircuit)(nil)
	_ io.Closer              = (*admittingCircuit)(nil)
)

func (t *admittingCircuit) SkipResolve(ctx context.Context, addr multiaddr.Multiaddr) bool {
	return t.circuits.SkipResolve(ctx, addr)
}

func (t *admittingCircuit) Close() error { return t.circuits.Close() }

// relayACL decides for whom this node relays. Whoever can ask has been admitted
// and knows the token. A member of a site relays for its members, and between
// them and newcomers, who have to reach somebody in order to enrol; nobody
// relays for the revoked.
type relayACL struct{ h *Host }

func (a relayACL) AllowReserve(p peer.ID, _ multiaddr.Multiaddr) bool {
	return a.h.standing(p) != StandingRevoked
}

func (a relayACL) AllowConnect(src peer.ID, _ multiaddr.Multiaddr, dst peer.ID) bool {
	from, to := a.h.standing(src), a.h.standing(dst)
	if from == StandingRevoked || to == StandingRevoked {
		return false
	}
	if from == StandingMember || to == StandingMember {
		return true
	}
	// Two that are nobody's members: founders, and all that a relay without a
	// site of its own sees.
	return a.h.salutation().Site == ""
}

// isCircuit tells the address of a connection through another node.
func isCircuit(addr multiaddr.Multiaddr) bool {
	_, err := addr.ValueForProtocol(multiaddr.P_CIRCUIT)
	return err == nil
}

// circuitVia is the address of whoever that relay is connected to.
func circuitVia(relay peer.ID) multiaddr.Multiaddr {
	return multiaddr.StringCast("/p2p/" + relay.String() + "/p2p-circuit")
}

// relayed tells whether a peer is connected, and only through others.
func (h *Host) relayed(p peer.ID) bool {
	conns := h.inner.Network().ConnsToPeer(p)
	for _, c := range conns {
		if !isCircuit(c.RemoteMultiaddr()) {
			return false
		}
	}
	return len(conns) > 0
}

// Reaches tells whether a peer is connected, directly or not.
func (h *Host) Reaches(p peer.ID) bool { return h.connected(p) }

// relaysFor returns ways to a peer through connected nodes, at most max.
func (h *Host) relaysFor(p peer.ID, most int) []multiaddr.Multiaddr {
	var out []multiaddr.Multiaddr
	for _, r := range h.inner.Network().Peers() {
		if r != p && len(out) < most && h.connected(r) && !h.relayed(r) {
			out = append(out, circuitVia(r))
		}
	}
	return out
}

// direct is ctx for a dial that must not go through others, even if the peer is
// connected through one.
func direct(ctx context.Context) context.Context {
	return network.WithForceDirectDial(ctx, "a relayed connection is to be replaced")
}
