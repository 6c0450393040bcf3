package sim

import (
	"fmt"
	"time"

	"github.com/muster-edge/muster/roles"
)

// planPause bundles changes as the agent's notifier does: a reconciler that runs is not woken for each.
const planPause = 100 * time.Millisecond

// wake lets the coordinator plan soon.
func (s *site) wake() {
	if s.planning || s.coordinator < 0 {
		return
	}
	s.planning = true
	s.w.after(max(0, s.planAt+planPause-s.w.now), func() {
		s.planning = false
		if !s.inOffice() {
			return
		}
		s.planAt = s.w.now
		s.plan()
	})
}

// plan asks the planner, on the coordinator's own copy and with what it has seen itself, and proposes what it says.
func (s *site) plan() {
	c := s.w.nodes[s.coordinator]
	if c.disk.copy == 0 && s.head() > 0 {
		return
	}
	base := c.disk.copy
	in := c.input(*s.entries[base].state)
	in.Now = c.clock() - s.office
	plan := roles.Next(in)
	s.w.plansMade++
	c.after(coordinatorPeriod, s.wake) // time passes, too
	if len(plan.Decisions) == 0 {
		return
	}
	for _, d := range plan.Decisions {
		s.judgeDecision(c, in, d)
	}
	decisions, compared := plan.Decisions, s.planIndex
	if compared > base {
		return // its own copy is behind; the proposal would be refused
	}
	s.propose(c.index, &proposal{
		what: fmt.Sprintf("%s plans %s", c, decisions[0]), size: entryOverhead + decisionSize*len(decisions),
		apply: func(state roles.State) *roles.State {
			if s.planIndex != compared { // the counter was rewritten by another plan
				return nil
			}
			next := roles.ApplyAll(state, decisions...)
			if r := next.Replacement; r != nil && r.Step == roles.StepJoin && (state.Replacement == nil || state.Replacement.Step != roles.StepJoin) {
				s.replaced++
			}
			s.planIndex = s.head() + 1
			return &next
		},
		done: func(int) { s.wake() },
	})
}

const coordinatorPeriod = 10 * time.Second

// input is what a node knows of a site's members, by its own gossip and its own clock.
func (n *node) input(state roles.State) roles.Input {
	in := roles.Input{State: state, Self: roles.NodeID(n.id), Health: make(map[roles.NodeID]roles.Health, len(state.Members))}
	for _, m := range state.Members {
		i := n.w.byID[string(m.ID)]
		v := &n.gossip.views[i]
		h := roles.Health{Alive: v.state == alive || v.state == suspect || i == n.index, Unheard: v.fact == 0}
		since := n.clock() - n.views
		if v.state != unseen {
			since = n.clock() - v.since
		}
		if h.Alive {
			h.AliveFor = since
		} else {
			h.DeadFor = since
		}
		h.Votes = n.disk.site.votes(m.ID)
		if v.fact > 0 {
			// The newest fact stands for the one that was heard: what it says of Kubernetes only ever moves on.
			other := n.w.nodes[i]
			h.K8sReady, h.CAHash, h.LANs = other.ready && v.fact == other.factVersion, other.disk.caHash, n.w.lans
		}
		in.Health[m.ID] = h
	}
	return in
}

const reconcileKubernetes = 2 * time.Second

// reconcileKubernetes starts K3s when the node's own copy of the ledger lets it, and wipes first what an older epoch left.
func (n *node) reconcileKubernetes() bool {
	state := n.state()
	if state == nil || !state.Policy.Kubernetes || n.starting {
		return true
	}
	id := roles.NodeID(n.id)
	if wipe, _ := roles.MustWipe(*state, id, roles.Data{Epoch: n.disk.dataEpoch}); wipe {
		n.disk.dataEpoch, n.disk.caHash, n.ready = 0, "", false
	}
	if n.ready {
		n.commitCA(state)
		return true
	}
	if may, _ := roles.MayStart(*state, id); !may {
		return true
	}
	epoch := *state.Epoch
	n.disk.dataEpoch = epoch.N // before it is started
	n.starting = true
	s := n.disk.site
	n.after(n.w.between(3*time.Second, 15*time.Second), func() {
		n.starting = false
		if n.disk.dataEpoch != epoch.N {
			return
		}
		if epoch.CAHash == "" {
			s.judgeInit(n, epoch)
			if n.disk.caHash == "" {
				n.disk.caHash = fmt.Sprintf("ca-%s-%d", n, epoch.N)
			}
		} else {
			n.disk.caHash = epoch.CAHash
		}
		n.ready = true
		n.publish()
	})
	return true
}

// commitCA is the init master's compare-and-set; it holds for the epoch that it initialised, and once.
func (n *node) commitCA(state *roles.State) {
	s, id := n.disk.site, roles.NodeID(n.id)
	if state.Epoch == nil || state.Epoch.Init != id || state.Epoch.CAHash != "" || n.disk.dataEpoch != state.Epoch.N {
		return
	}
	which, hash := state.Epoch.N, n.disk.caHash
	s.propose(n.index, &proposal{
		what: fmt.Sprintf("%s commits its CA for epoch %d", n, which), size: entryOverhead,
		apply: func(state roles.State) *roles.State {
			if e := state.Epoch; e == nil || e.N != which || e.Init != id || e.CAHash != "" {
				return nil
			}
			next := state
			epoch := *state.Epoch
			epoch.CAHash = hash
			next.Epoch = &epoch
			return &next
		},
		done: func(int) { s.wake() },
	})
}

func (w *world) candidate(i int) roles.Candidate {
	return roles.Candidate{ID: roles.NodeID(w.nodes[i].id), Hostname: "localhost", LANs: w.lans, Policy: w.cfg.Policy}
}

func (w *world) member(i int, joined uint64) roles.Member {
	return roles.Member{ID: roles.NodeID(w.nodes[i].id), Hostname: "localhost", Joined: joined}
}

// placed notes when a node has its role and address in its own copy.
func (w *world) placed(n *node) {
	if w.hasPlace[n.index] {
		return
	}
	state := n.state()
	id := roles.NodeID(n.id)
	if _, addressed := state.Addresses[id]; addressed && state.Roles[id] != roles.None {
		w.hasPlace[n.index] = true
		w.placedCount++
		if w.placedCount == len(w.nodes) {
			w.allPlaced = w.now
		}
	}
}
