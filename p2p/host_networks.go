package p2p

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// refusalMemory is how long a refusal is reported after it was last heard:
// twice the longest pause between two dials.
const refusalMemory = 2 * redialMax

// maxRefusals bounds how many peers' refusals are kept.
const maxRefusals = 64

// Refusal is what a peer said when it did not let this node in: Reason wraps
// ErrTokenReplaced, from a peer that knows this node's token, or ErrRevokedThere,
// from a member.
type Refusal struct {
	By     peer.ID
	Reason error
	At     time.Time
}

// SetNetworks replaces what newcomers have to know. Members stay connected;
// whoever is here by an earlier token alone is disconnected and has to prove the
// present one.
func (h *Host) SetNetworks(n Networks) error {
	if n.Present.prk == nil {
		return errors.New("set networks: there is no present one")
	}
	n.Former = slices.Clone(n.Former[:min(len(n.Former), MaxFormerNetworks)])
	h.mu.Lock()
	before := h.networks
	h.networks, h.keys = n, n.enrolmentKeys()
	if !before.Present.Same(n.Present) {
		clear(h.refused)
	}
	h.mu.Unlock()
	if before.Epoch == n.Epoch && before.Present.Same(n.Present) {
		return nil
	}
	for _, p := range h.Peers() {
		if p.Standing != StandingMember && p.Epoch != n.Epoch {
			h.Disconnect(p.ID)
		}
	}
	return nil
}

// Networks returns what SetNetworks set last.
func (h *Host) Networks() Networks {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.networks
}

// Refusals of this node by others, of late, the latest first.
func (h *Host) RefusedBy() []Refusal {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Refusal
	for id, r := range h.refused {
		if time.Since(r.At) > refusalMemory {
			delete(h.refused, id)
			continue
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Refusal) int { return b.At.Compare(a.At) })
	return out
}

func (h *Host) enrolment() enrolmentKeys {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.keys
}

func (h *Host) noteRefused(by peer.ID, reason error) {
	h.mu.Lock()
	if h.refused == nil {
		h.refused = map[peer.ID]Refusal{}
	}
	before, known := h.refused[by]
	if known || len(h.refused) < maxRefusals {
		h.refused[by] = Refusal{By: by, Reason: fmt.Errorf("%s: %w", by, reason), At: time.Now()}
	}
	h.mu.Unlock()
	if !known || time.Since(before.At) > refusalMemory {
		h.changed.Notify()
	}
}
