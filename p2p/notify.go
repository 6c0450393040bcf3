package p2p

import "sync"

// Notifier is the one way in which packages here say "something changed": a
// level, not a queue, so that a slow listener costs nothing and misses nothing
// that it could still act on. The zero value is ready.
type Notifier struct {
	mu sync.Mutex
	ch chan struct{}
}

// Changed returns a channel that is closed at the next Notify. Take it before
// reading the state that it guards, or a change in between goes unseen.
func (n *Notifier) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		n.ch = make(chan struct{})
	}
	return n.ch
}

// Notify wakes everybody who holds the current channel.
func (n *Notifier) Notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch != nil {
		close(n.ch)
		n.ch = nil
	}
}
