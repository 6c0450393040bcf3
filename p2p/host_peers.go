package p2p

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// peerState is what the host keeps of a connected peer.
type peerState struct {
	addr    multiaddr.Multiaddr
	conn    string     // ID of the newest connection
	epoch   uint64     // of the token that let it in
	theirs  salutation // the newest that it told us
	told    uint64     // sequence of ours that it knows
	telling bool       // a goroutine is at it
}

// refresh makes the state of a peer what its connections say. It is called for
// every event about them and looks at the whole, so no order of events matters.
func (h *Host) refresh(p peer.ID) {
	h.mu.Lock()
	// Asked for under the lock, lest an older answer overwrites a newer one.
	conns := h.inner.Network().ConnsToPeer(p)
	changed := h.refreshLocked(p, conns)
	h.mu.Unlock()
	if changed {
		h.changed.Notify()
	}
	if len(conns) > 1 {
		select {
		case h.doubled <- struct{}{}:
		default: // already said
		}
	}
}

func (h *Host) refreshLocked(p peer.ID, conns []network.Conn) (changed bool) {
	state, known := h.peers[p]
	var newest network.Conn
	for _, c := range conns {
		if !c.IsClosed() && (newest == nil || c.Stat().Opened.After(newest.Stat().Opened)) {
			newest = c
		}
	}
	if newest == nil {
		delete(h.peers, p)
		return known
	}
	if known && state.conn == newest.ID() {
		return false
	}
	var admitted *admittedConn
	if !newest.As(&admitted) {
		return false // the swarm has no connections but ours
	}
	if !known {
		state = &peerState{theirs: admitted.theirs, told: admitted.told}
		h.peers[p] = state
	} else {
		if admitted.theirs.newerThan(state.theirs) {
			if admitted.theirs.Instance != state.theirs.Instance {
				state.told = 0 // it started anew
			}
			state.theirs = admitted.theirs
		}
		state.told = max(state.told, admitted.told)
	}
	state.conn, state.addr, state.epoch = newest.ID(), newest.RemoteMultiaddr(), admitted.epoch
	h.tellLocked(p, state)
	return true
}

const (
	// Two nodes that find each other at the same instant end up with two
	// connections. They are merged after mergeDelay, when the swarm has settled
	// on one for its streams, and by force after mergePatience.
	mergeDelay    = 2 * time.Second
	mergePatience = 30 * time.Second
)

// mergeConnections closes connections that a peer has beyond the first. Only the
// end with the smaller ID does, lest each end closes the one the other keeps.
func (h *Host) mergeConnections() {
	since := map[peer.ID]time.Time{}
	timer := time.NewTimer(mergeDelay)
	defer timer.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-h.doubled:
			timer.Reset(mergeDelay)
			continue
		case <-timer.C:
		}
		if h.mergeOnce(since, time.Now()) {
			timer.Reset(mergeDelay)
		}
	}
}

// mergeOnce reports whether connections are left to be merged later. since holds
// when each peer was first seen with more than one.
func (h *Host) mergeOnce(since map[peer.ID]time.Time, now time.Time) (again bool) {
	doubled := map[peer.ID]bool{}
	for _, p := range h.inner.Network().Peers() {
		conns := h.inner.Network().ConnsToPeer(p)
		if len(conns) < 2 || compareIDs(h.self, p) > 0 {
			continue
		}
		doubled[p] = true
		if _, ok := since[p]; !ok {
			since[p] = now
		}
		keep := preferredConn(conns)
		for _, c := range conns {
			if c == keep {
				continue
			}
			if len(c.GetStreams()) > 0 && now.Sub(since[p]) < mergePatience {
				again = true
				continue
			}
			if err := c.Close(); err != nil {
				h.log.Debug("close the second connection", "peer", p.String(), "error", err)
			}
		}
	}
	for p := range since {
		if !doubled[p] {
			delete(since, p)
		}
	}
	return again
}

// preferredConn is one that goes through nobody else, of these the one with the
// most streams, and of equals the oldest.
func preferredConn(conns []network.Conn) network.Conn {
	best := conns[0]
	for _, c := range conns[1:] {
		if through := isCircuit(c.RemoteMultiaddr()); through != isCircuit(best.RemoteMultiaddr()) {
			if !through {
				best = c
			}
			continue
		}
		more, fewer := len(c.GetStreams()), len(best.GetStreams())
		if more > fewer || more == fewer && c.Stat().Opened.Before(best.Stat().Opened) {
			best = c
		}
	}
	return best
}
