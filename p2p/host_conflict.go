package p2p

import (
	"fmt"
	"net/netip"
	"time"
)

// conflictMemory is how long a conflict counts after it was last seen: two
// announcements on the most crowded LAN, and twenty times as long as each of two
// holders needs to publish its facts anew.
const conflictMemory = 2 * mdnsRare

// IdentityConflict returns an error that wraps ErrIdentityConflict if of late
// another live node with this node's key was seen, on the LAN or as it connected.
// Changed tells when it is first seen, and not when it is over.
func (h *Host) IdentityConflict() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conflictAt.IsZero() || time.Since(h.conflictAt) > conflictMemory {
		return nil
	}
	return fmt.Errorf("%w: %s, seen at %s", ErrIdentityConflict, h.self, h.conflictFrom)
}

func (h *Host) noteConflict(from netip.Addr) {
	first := h.IdentityConflict() == nil
	h.mu.Lock()
	h.conflictAt, h.conflictFrom = time.Now(), from
	h.mu.Unlock()
	if first {
		h.log.Error("identity conflict", "error", h.IdentityConflict())
		h.changed.Notify()
	}
}
