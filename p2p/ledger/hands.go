package ledger

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

// hands bounds what a node does for others at a time: all of them together, and
// each, so that a member that floods keeps nobody else from being served.
type hands struct {
	all, each int

	mu   sync.Mutex
	busy int
	held map[peer.ID]int
}

func newHands(all, each int) *hands {
	return &hands{all: all, each: each, held: map[peer.ID]int{}}
}

// take returns false when too much is in hand already, for all or for that peer.
func (h *hands) take(of peer.ID) (release func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy >= h.all || h.held[of] >= h.each {
		return nil, false
	}
	h.busy++
	h.held[of]++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.busy--
		if h.held[of]--; h.held[of] == 0 {
			delete(h.held, of)
		}
	}, true
}
