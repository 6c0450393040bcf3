package p2p

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	// maxRelays is at how many relays a node behind a router can be reached. More
	// than one, since relays end; few, since each says where to look.
	maxRelays = 4

	reserveTimeout = 10 * time.Second
	reserveRetry   = 30 * time.Second
)

// reservations keep a node that others cannot dial within reach: it reserves a
// place at some of the nodes that it could dial itself, for as long as they are
// connected. A node that is seen under an address of its own needs none.
type reservations struct {
	host *Host

	mu   sync.Mutex
	held map[peer.ID]time.Time // when to ask again
	wg   sync.WaitGroup
}

func newReservations(h *Host) *reservations {
	return &reservations{host: h, held: map[peer.ID]time.Time{}}
}

// identified looks at how a peer sees this node.
func (r *reservations) identified(ctx context.Context, e event.EvtPeerIdentificationCompleted) {
	if e.Conn == nil || e.Conn.Stat().Direction != network.DirOutbound || isCircuit(e.Conn.RemoteMultiaddr()) || e.ObservedAddr == nil {
		return // who dialled us, or was reached through others, says nothing about routers before us
	}
	seen, err := manet.ToIP(e.ObservedAddr)
	if err != nil || ownAddress(seen) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.held {
		if !r.host.connected(p) {
			delete(r.held, p)
		}
	}
	if _, have := r.held[e.Peer]; have || len(r.held) >= maxRelays {
		return
	}
	r.held[e.Peer] = time.Now()
	r.wg.Go(func() { r.keep(ctx, e.Peer) })
}

// keep asks for a place, and again before it expires, until the relay is gone.
func (r *reservations) keep(ctx context.Context, relay peer.ID) {
	defer func() {
		r.mu.Lock()
		delete(r.held, relay)
		r.mu.Unlock()
	}()
	for r.host.connected(relay) {
		asking, cancel := context.WithTimeout(network.WithNoDial(ctx, "a relay that left is asked when it returns"), reserveTimeout)
		place, err := client.Reserve(asking, r.host.inner, peer.AddrInfo{ID: relay})
		cancel()
		wait := reserveRetry
		if err != nil {
			r.host.log.Debug("reserve a place at a relay", "peer", relay.String(), "error", err)
		} else {
			wait = max(time.Until(place.Expiration)/2, reserveRetry)
		}
		if !r.wait(ctx, relay, wait) {
			return
		}
	}
}

// wait returns false when the relay is gone before the time is over.
func (r *reservations) wait(ctx context.Context, relay peer.ID, d time.Duration) bool {
	due := time.NewTimer(d)
	defer due.Stop()
	for {
		changed := r.host.Changed()
		if !r.host.connected(relay) {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-due.C:
			return true
		case <-changed:
		}
	}
}

// ownAddress tells whether this machine has the address itself.
func ownAddress(ip []byte) bool {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return false
	}
	addrs, err := manet.InterfaceMultiaddrs()
	if err != nil {
		return true // not known: do not act on it
	}
	return addr.Unmap().IsLoopback() || slices.ContainsFunc(addrs, func(have multiaddr.Multiaddr) bool {
		own, err := manet.ToIP(have)
		if err != nil {
			return false
		}
		a, ok := netip.AddrFromSlice(own)
		return ok && a.Unmap() == addr.Unmap()
	})
}
