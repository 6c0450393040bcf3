package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

const (
	raftCheck     = 250 * time.Millisecond
	followCheck   = 500 * time.Millisecond
	entryOverhead = 400 // bytes of an entry with its signature
	decisionSize  = 160
	heartbeatSize = 120
)

// site is one founded site: its log, and who coordinates it. It stands for Raft, see the package comment.
type site struct {
	w        *world
	id       string
	cert     ledger.Certificate
	servers  []server
	changing bool // a change of the servers is under way

	entries []entry // entry 0 is genesis

	coordinator int // -1: nobody
	term        int
	life        int           // of the coordinator, in which it took office
	office      time.Duration // since when, own clock of the coordinator
	lease       time.Duration // last time that it reached a quorum
	electAt     time.Duration

	queue      []*proposal
	committing bool
	limbo      []*proposal // of a coordinator that lost its office before it heard of them: they may still commit
	planning   bool
	planAt     time.Duration
	planIndex  int // of the entry that last changed what plans compare

	replaced int // masters

	judged judged
}

// entry is one committed entry, and the state after it.
type entry struct {
	state *roles.State
	size  int
	at    time.Duration
	mark  string // a decision that a test follows
}

// proposal is a transaction on its way. apply returns the state after it, or nil if what it compares does not hold any
// more.
type proposal struct {
	what   string
	apply  func(roles.State) *roles.State
	size   int
	mark   string
	done   func(index int) // committed; -1: refused
	handed int             // how often it has been proposed
	waited time.Duration   // for a coordinator
}

// site returns the site of a certificate, known or new.
func (w *world) site(cert ledger.Certificate) *site {
	id := cert.Genesis.Site
	if s := w.sites[id]; s != nil {
		return s
	}
	policy, err := roles.ParsePolicy(cert.Genesis.Policy)
	if err != nil {
		w.violate("site %s has a policy that cannot be read: %v", id, err)
	}
	policy.Range = netip.MustParsePrefix(cert.Genesis.Range)
	state := &roles.State{Policy: policy}
	s := &site{w: w, id: id, cert: cert, coordinator: -1, electAt: w.now}
	for _, m := range cert.Genesis.Masters {
		state.Masters = append(state.Masters, roles.NodeID(m))
		s.servers = append(s.servers, server{node: w.nodes[w.byID[m]], seat: 1, votes: true})
	}
	for _, f := range cert.Genesis.Founders {
		state.Members = append(state.Members, w.member(w.byID[f], 1))
	}
	s.entries = []entry{{state: state, size: 4096, at: w.now}}
	s.judged = newJudged()
	w.sites[id] = s
	w.siteOrder = append(w.siteOrder, s)
	s.tick()
	return s
}

func (s *site) head() int { return len(s.entries) - 1 }

func (s *site) inOffice() bool {
	if s.coordinator < 0 {
		return false
	}
	n := s.w.nodes[s.coordinator]
	return n.up && n.life == s.life
}

// tick is Raft's timers: the lease, heartbeats, and elections.
func (s *site) tick() {
	defer s.w.after(raftCheck, s.tick)
	timing := s.w.cfg.ledger
	switch {
	case s.coordinator >= 0 && !s.inOffice():
		s.vacate()
	case s.coordinator >= 0 && s.quorate(s.w.nodes[s.coordinator]):
		s.lease = s.w.now
		s.replicate()
		s.keepVoters()
	case s.coordinator >= 0 && s.w.now-s.lease > timing.LeaderLease:
		s.vacate()
	case s.coordinator < 0 && s.w.now >= s.electAt:
		s.elect()
	}
}

// vacate ends the office. What was not committed may be on some voter's disk, and may come back with the next coordinator.
func (s *site) vacate() {
	s.coordinator, s.committing = -1, false
	s.limbo = append(s.limbo, s.queue...)
	s.queue = nil
	s.electAt = s.w.now + s.w.between(s.w.cfg.ledger.HeartbeatTimeout, 2*s.w.cfg.ledger.HeartbeatTimeout)
}

// able are the voters that can have the office: they reach a majority and have every committed entry.
func (s *site) able() (all []*node) {
	for _, n := range s.voters() {
		if n.disk.raft >= s.head() && s.quorate(n) && n.fsync < s.w.cfg.ledger.HeartbeatTimeout {
			all = append(all, n)
		}
	}
	return all
}

// elect gives the office to one of those that can have it.
func (s *site) elect() {
	if able := s.able(); len(able) > 0 {
		s.takeOffice(able[s.w.rand.IntN(len(able))])
	}
}

func (s *site) takeOffice(c *node) {
	s.coordinator, s.life, s.office, s.lease = c.index, c.life, c.clock(), s.w.now
	s.term++
	s.w.trace("site %s: %s coordinates, term %d", s.id, c, s.term)
	if s.w.founded == 0 {
		s.w.founded = s.w.now
	}
	for _, p := range s.limbo {
		if s.w.rand.IntN(2) == 0 {
			s.queue = append(s.queue, p)
		}
	}
	s.limbo = nil
	c.after(c.fsync, func() { // the first entry of its term, with which it applies all that were committed before
		if s.coordinator == c.index {
			c.show(s.head())
			s.feed(c.index)
			s.wake()
		}
	})
	s.commit()
}

// replicate brings servers that are behind up to date, and costs the heartbeats.
func (s *site) replicate() {
	c := s.w.nodes[s.coordinator]
	c.led = c.clock()
	for _, v := range s.servers {
		n := v.node
		if n == c || !s.serves(v) || !s.w.bothWays(c.index, n.index) {
			continue
		}
		n.led = n.clock()
		c.bytes[forLedger] += heartbeatSize / 2 // one in half a second, see ledger.SiteTiming
		n.bytes[forLedger] += heartbeatSize / 2
		if n.disk.raft < s.head() {
			head := s.head()
			s.w.send(c.index, n.index, forLedger, heartbeatSize, func() {
				n.after(n.fsync, func() {
					if s.serves(v) {
						n.disk.raft = max(n.disk.raft, head)
					}
				})
			})
		}
	}
}

// propose takes a transaction to the coordinator, which the proposer finds through any voter.
func (s *site) propose(from int, p *proposal) {
	if !s.inOffice() {
		if p.waited += followCheck; p.waited < s.w.cfg.ledger.ProposeGiveUp {
			s.w.nodes[from].after(followCheck, func() { s.propose(from, p) })
		}
		return
	}
	to, life := s.coordinator, s.life
	s.w.send(from, to, forLedger, p.size, func() {
		if s.coordinator != to || s.life != life {
			return
		}
		s.queue = append(s.queue, p)
		s.commit()
		// A proposer that hears nothing proposes again; what then arrives twice must do nothing twice.
		if p.handed++; p.handed == 1 && s.w.rand.Float64() < s.w.cfg.repeat {
			s.w.after(s.w.between(0, 20*time.Second), func() {
				if s.inOffice() {
					again := *p
					again.done = func(int) {}
					s.queue = append(s.queue, &again)
					s.commit()
				}
			})
		}
	})
}

// commit replicates what has been proposed, all at once, and applies it when a majority has it on disk.
func (s *site) commit() {
	if s.committing || len(s.queue) == 0 || !s.inOffice() {
		return
	}
	batch := s.queue
	s.queue = nil
	size := 0
	for _, p := range batch {
		size += p.size
	}
	c := s.w.nodes[s.coordinator]
	var answers []time.Duration
	for _, n := range s.voters() {
		if !s.w.bothWays(c.index, n.index) || n.disk.raft < s.head() {
			continue
		}
		took := n.fsync
		if n != c {
			c.bytes[forLedger] += int64(size)
			took += s.w.latency() + s.w.latency()
			for pause := retransmit; s.w.rand.Float64() < s.w.net.loss && pause < 8*retransmit; pause *= 2 {
				took += pause
			}
		}
		answers = append(answers, took)
	}
	quorum := majority(s.servers)
	if len(answers) < quorum {
		s.limbo = append(s.limbo, batch...)
		return
	}
	slices.Sort(answers)
	s.committing = true
	term := s.term
	s.w.after(answers[quorum-1], func() {
		if s.term != term || !s.inOffice() || !s.quorate(c) {
			s.limbo = append(s.limbo, batch...)
			s.committing = false
			return
		}
		s.committing = false
		s.apply(batch)
		s.commit()
	})
}

// apply makes each proposal whose comparisons still hold an entry.
func (s *site) apply(batch []*proposal) {
	c := s.w.nodes[s.coordinator]
	if !s.quorate(c) {
		s.w.violate("site %s decides without a majority", s.id)
	}
	for _, p := range batch {
		before := s.entries[s.head()].state
		next := p.apply(*before)
		if next == nil {
			if p.done != nil {
				p.done(-1)
			}
			continue
		}
		s.entries = append(s.entries, entry{state: next, size: p.size, at: s.w.now, mark: p.mark})
		s.judge(p.what)
		if p.done != nil {
			p.done(s.head())
		}
	}
	// Everybody who acknowledged has it; they were counted above.
	for _, n := range s.voters() {
		if s.w.bothWays(c.index, n.index) {
			n.disk.raft = s.head()
		}
	}
	c.show(s.head())
	s.feed(s.coordinator)
}

// feed sends what is new to everybody who follows a server.
func (s *site) feed(server int) {
	from := s.w.nodes[server]
	for _, n := range s.w.nodes {
		if n.up && n.disk.site == s && n.index != server && n.server == server && n.serverLife == from.life {
			s.push(from, n)
		}
	}
}

// push sends one follower what its server has and it has not, in order.
func (s *site) push(from, to *node) {
	head := from.disk.copy
	if head <= to.receiving {
		return
	}
	size := 0
	for i := to.receiving + 1; i <= head; i++ {
		size += s.entries[i].size
	}
	first := to.receiving
	to.receiving = head
	s.w.send(from.index, to.index, forLedger, size, func() {
		if to.server != from.index {
			return
		}
		if first > max(to.disk.copy, to.receiving) {
			return
		}
		to.heard = to.clock()
		to.after(to.fsync, func() {
			if head > to.disk.copy {
				to.show(head)
				s.feed(to.index) // a voter's own followers
			}
		})
	})
}

// show makes entries up to index the node's own copy, on its disk.
func (n *node) show(index int) {
	if index < n.disk.copy {
		n.w.violate("the copy of %s goes back from %d to %d", n, n.disk.copy, index)
		return
	}
	s := n.disk.site
	for i := n.disk.copy + 1; i <= index; i++ {
		if s.entries[i].mark != "" {
			n.w.held[s.entries[i].mark]++
			if n.w.held[s.entries[i].mark] == n.w.upMembers(s) {
				n.w.heldBy[s.entries[i].mark] = n.w.now
			}
		}
	}
	n.disk.copy = index
	n.receiving = max(n.receiving, index)
	if n.server < 0 {
		n.receiving = index
	}
	n.vote()
	n.w.placed(n)
}

// follow keeps one stream open: a voter follows the coordinator, everybody else a random voter. A voter that knows no coordinator may
// have lost its seat while it was away, and asks like everybody else.
func (n *node) follow() bool {
	s := n.disk.site
	if s != nil {
		n.vote()
	}
	if s == nil || s.coordinator == n.index {
		n.server = -1
		return true
	}
	timing := n.w.cfg.ledger
	voter := n.disk.seat != 0 && !n.forlorn()
	if n.server >= 0 {
		server := n.w.nodes[n.server]
		silent := n.clock()-n.heard > 2*timing.Keepalive+time.Second
		lost := n.gossip != nil && n.gossip.views[n.server].state == dead && n.serverSince < n.gossip.views[n.server].since
		if voter && s.inOffice() && n.server != s.coordinator || silent || lost || server.up && server.life != n.serverLife {
			n.server = -1
		} else if server.up && n.w.bothWays(n.index, n.server) {
			// A keepalive, or bytes that get through again after a cut.
			if n.clock()-n.heard > timing.Keepalive {
				n.heard = n.clock()
				server.bytes[forLedger] += 60
			}
			if n.disk.copy < server.disk.copy && n.receiving >= server.disk.copy && n.w.rand.Float64() < 0.1 {
				n.receiving = n.disk.copy // the stream carries on with what was lost
			}
			s.push(server, n)
		}
	}
	if n.server >= 0 {
		return true
	}
	var able []int
	for _, m := range s.voters() {
		if m != n && n.w.bothWays(n.index, m.index) && (!voter || m.index == s.coordinator) {
			able = append(able, m.index)
		}
	}
	if len(able) == 0 {
		return true
	}
	server := n.w.nodes[able[n.w.rand.IntN(len(able))]]
	n.server, n.serverLife, n.serverSince = server.index, server.life, n.clock()
	n.heard, n.receiving = n.serverSince, n.disk.copy
	s.push(server, n)
	return true
}

// enrol is a member passing a newcomer's request on. done gets the index of the entry that has it.
func (s *site) enrol(via, newcomer int, done func(index int)) {
	id := roles.NodeID(s.w.nodes[newcomer].id)
	for _, m := range s.entries[s.head()].state.Members {
		if m.ID == id {
			done(s.head())
			return
		}
	}
	s.propose(via, &proposal{
		what: fmt.Sprintf("enrol n%d", newcomer+1), size: entryOverhead + enrolSize,
		apply: func(state roles.State) *roles.State {
			if slices.ContainsFunc(state.Members, func(m roles.Member) bool { return m.ID == id }) {
				return nil
			}
			next := state
			next.Members = append(slices.Clip(state.Members), s.w.member(newcomer, uint64(s.head()+2)))
			return &next
		},
		done: done,
	})
}
