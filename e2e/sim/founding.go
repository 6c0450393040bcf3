package sim

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// The newcomer's waiting times are node/newcomer.go's.
const (
	settleFounding    = 1500 * time.Millisecond
	settleFoundingMax = 6 * time.Second
	enrolRetry        = 2 * time.Second
	enrolTimeout      = 20 * time.Second
	enrolSize         = 900
	lookAround        = 500 * time.Millisecond
)

// settling is for how long the set of founders in sight has stayed the same.
type settling struct {
	changed bool
	view    uint64
	since   time.Duration
	first   time.Duration
	offered bool
	offer   *founders
}

// founders is what roles.PlanFounding made of one view. It depends on the candidates alone, so nodes that see the same share
// it.
type founders struct {
	record ledger.Genesis
	in     map[string]bool
}

// candidatesSeen names the view of a newcomer: everybody alive in its gossip whose fact has come.
func (n *node) candidatesSeen() (view uint64) {
	for i := range n.gossip.views {
		v := &n.gossip.views[i]
		if v.fact > 0 && (v.state == alive || i == n.index) {
			view += mix(i, 1)
		}
	}
	return view
}

// plan is roles.PlanFounding over the view that the node has now.
func (n *node) plan() *founders {
	view := n.candidatesSeen()
	if f, known := n.w.plans[view]; known {
		return f
	}
	var candidates []roles.Candidate
	for i := range n.gossip.views {
		v := &n.gossip.views[i]
		if v.fact > 0 && (v.state == alive || i == n.index) {
			candidates = append(candidates, n.w.candidate(i))
		}
	}
	// Who is beyond roles.MaxFounders gets no plan of its own; the lowest ID always founds.
	self := candidates[0].ID
	for _, c := range candidates {
		self = min(self, c.ID)
	}
	var f *founders
	if plan, why := roles.PlanFounding(self, candidates); len(why) == 0 {
		f = &founders{in: map[string]bool{}}
		f.record = ledger.Genesis{Range: plan.Range.String(), Policy: must(json.Marshal(plan.Policy))}
		for _, id := range plan.Founders {
			f.record.Founders = append(f.record.Founders, string(id))
			f.in[string(id)] = true
		}
		for _, id := range plan.Masters {
			f.record.Masters = append(f.record.Masters, string(id))
		}
	}
	n.w.plans[view] = f
	return f
}

// offer is what the node would found now, nil if nothing yet.
func (n *node) offer() *ledger.Genesis {
	if n.disk.site != nil || len(n.sitesInSight()) > 0 {
		return nil
	}
	s, now := &n.settling, n.clock()
	if s.changed {
		s.changed = false
		if view := n.candidatesSeen(); view != s.view {
			s.view, s.since, s.offered = view, now, false
			if s.first == 0 {
				s.first = now
			}
		}
	}
	if now-s.since < settleFounding && now-s.first < settleFoundingMax {
		return nil
	}
	if !s.offered {
		s.offer = n.plan()
		if s.offered = s.offer != nil; !s.offered {
			s.first = 0
		}
	}
	if s.offer == nil || !s.offer.in[n.id] {
		return nil
	}
	record := s.offer.record
	record.Site = fmt.Sprintf("%016x", n.w.rand.Uint64())
	return &record
}

// tickFounding is one tick of the founding. A node that has nothing to offer and heard of no attempt is left out: its tick
// would change nothing.
func (n *node) tickFounding() bool {
	if n.enrolling || n.w.now < n.busyUntil {
		return true
	}
	offer := n.offer()
	if offer == nil && !n.engaged {
		return true
	}
	n.engaged = true
	n.stepper.Tick(n.peersAlive(), offer)
	n.carryOut()
	return true
}

// peersAlive is whom a founding counts on: those alive in the node's gossip, and for a newcomer the connected nodes that have
// a site already.
func (n *node) peersAlive() []string {
	var peers []string
	for i := range n.gossip.views {
		other := n.w.nodes[i]
		seen := n.gossip.views[i].state == alive
		if !seen && n.known[i] && other.up && n.disk.site == nil && other.disk.site != nil {
			seen = n.w.bothWays(n.index, i)
		}
		if i != n.index && seen {
			peers = append(peers, other.id)
		}
	}
	return peers
}

// founding takes a message of another founder, when the disk has answered.
func (n *node) founding(from int, message []byte) {
	if n.enrolling {
		return // the protocol is not served while it asks to be let in
	}
	if wait := n.busyUntil - n.w.now; wait > 0 {
		n.after(wait, func() { n.founding(from, message) })
		return
	}
	n.engaged = true
	if err := n.stepper.Step(n.w.nodes[from].id, message); err != nil {
		n.w.violate("%s cannot read what n%d sent: %v", n, from+1, err)
	}
	n.carryOut()
}

// carryOut lets nobody know before the disk does.
func (n *node) carryOut() {
	out, err := n.stepper.Output()
	if err != nil {
		n.w.violate("%s: %v", n, err)
		return
	}
	send := func() {
		for _, l := range out.Send {
			to := n.w.byID[l.To]
			n.w.send(n.index, to, forFounding, len(l.Message), func() { n.w.nodes[to].founding(n.index, l.Message) })
		}
		n.becomeFounder()
	}
	if out.Disk == nil {
		send()
		return
	}
	n.write(func() {
		n.disk.founding = out.Disk
		n.w.judgeFounding(n, out.Disk)
	}, send)
}

// becomeFounder makes the node a member of the site that it founded.
func (n *node) becomeFounder() {
	cert, founded := n.stepper.Founded()
	if !founded || n.disk.site != nil {
		return
	}
	s := n.w.site(cert)
	n.becomeMember(s, 0)
}

func (n *node) becomeMember(s *site, copy int) {
	if n.stepper.Promised() {
		n.w.violate("%s becomes a member of site %s while it is bound to another founding", n, s.id)
	}
	n.disk.site, n.disk.copy, n.led = s, copy, n.clock()
	n.vote()
	n.openFounding() // a founder that was away may still ask how the founding ended
	n.join()
	if n.w.firstMember[n.index] == 0 {
		n.w.firstMember[n.index] = n.w.now
	}
}

// sitesInSight are the sites of the nodes that this one is connected to.
func (n *node) sitesInSight() []*site {
	var all []*site
	for _, i := range n.knownList {
		other := n.w.nodes[i]
		if other.up && other.disk.site != nil && n.w.bothWays(n.index, i) {
			s := other.disk.site
			if len(all) == 0 || all[0] != s && (len(all) == 1 || all[1] != s) {
				all = append(all, s)
			}
		}
	}
	return all
}

// seekSite lets the node be let in where there is one site; with two in sight it joins neither (history S28).
func (n *node) seekSite() bool {
	if n.disk.site != nil {
		return false
	}
	if n.enrolling || n.w.now < n.busyUntil || n.stepper.Promised() {
		return true
	}
	sites := n.sitesInSight()
	if len(sites) != 1 {
		return true
	}
	s := sites[0]
	var members []int
	for _, i := range n.knownList {
		if other := n.w.nodes[i]; other.up && other.disk.site == s && n.w.bothWays(n.index, i) {
			members = append(members, i)
		}
	}
	via := members[n.w.rand.IntN(len(members))]
	n.enrolling = true
	done := false
	n.w.send(n.index, via, forLedger, enrolSize, func() {
		s.enrol(via, n.index, func(index int) {
			n.w.send(via, n.index, forLedger, 200, func() {
				if !done && n.disk.site == nil {
					done = true
					n.after(n.fsync, func() {
						n.enrolling = false
						if n.disk.site == nil {
							n.becomeMember(s, 0)
						}
					})
				}
			})
		})
	})
	n.after(enrolTimeout, func() {
		if !done {
			done = true
			n.after(enrolRetry, func() { n.enrolling = false })
		}
	})
	return true
}
