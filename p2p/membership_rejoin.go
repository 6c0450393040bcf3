package p2p

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// rejoinState is when and how patiently a candidate is tried again.
type rejoinState struct {
	pause     time.Duration
	next      time.Time
	connected bool
	trying    bool
}

type rejoinResult struct {
	id       peer.ID
	answered bool
}

// rejoin looks for candidates that gossip does not hold alive, for ever:
// memberlist neither probes nor compares with a node it calls dead.
func (m *Membership) rejoin() {
	states := make(map[peer.ID]*rejoinState)
	results := make(chan rejoinResult)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		hostChanged, membersChanged := m.cfg.Host.Changed(), m.changed.Changed()
		timer.Reset(m.rejoinDue(states, results))
		select {
		case <-m.ctx.Done():
			return
		case r := <-results:
			if s := states[r.id]; s != nil {
				s.trying = false
			}
			m.tried(r.id, r.answered)
		case <-hostChanged:
		case <-membersChanged:
		case <-timer.C:
		}
	}
}

// rejoinDue starts what is due and returns when to look again at the latest.
func (m *Membership) rejoinDue(states map[peer.ID]*rejoinState, results chan<- rejoinResult) time.Duration {
	connected := make(map[peer.ID]bool)
	var candidates []peer.ID
	for _, p := range m.cfg.Host.Peers() {
		connected[p.ID] = true
		candidates = append(candidates, p.ID)
	}
	if m.cfg.Candidates != nil {
		candidates = m.cfg.Candidates()
	}
	candidates = append(slices.Clone(candidates), m.answering()...) // until they do so no more
	now, wait := time.Now(), m.cfg.Timing.RejoinMax
	wanted := make(map[peer.ID]bool, len(candidates))
	for _, id := range candidates {
		if id == m.cfg.Host.ID() || m.isAlive(id) {
			continue
		}
		wanted[id] = true
		s := states[id]
		if s == nil {
			s = &rejoinState{}
			states[id] = s
		}
		if connected[id] && !s.connected {
			s.pause, s.next = 0, now
		}
		s.connected = connected[id]
		if s.trying {
			continue
		}
		if s.next.After(now) {
			wait = min(wait, s.next.Sub(now))
			continue
		}
		s.trying = true
		s.pause = min(max(2*s.pause, m.cfg.Timing.RejoinMin), m.cfg.Timing.RejoinMax)
		s.next = now.Add(rejoinJitter(s.pause))
		m.wg.Go(func() {
			// The next try is due anyway; why this one failed is in the log.
			_, err := m.list.Join([]string{gossipAddress(id)})
			select {
			case results <- rejoinResult{id, err == nil}:
			case <-m.ctx.Done():
			}
		})
	}
	for id, s := range states {
		if !wanted[id] && !s.trying {
			delete(states, id) // a later loss starts with short pauses again
		}
	}
	return max(wait, time.Millisecond)
}

// rejoinJitter spreads the nodes of a site that lost the same peer at the same time:
// half to all of d.
func rejoinJitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}
