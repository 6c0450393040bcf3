package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// server is a member of a site's Raft: a node with one storage. A node that gives its seat up and takes one again is another.
type server struct {
	node  *node
	seat  int
	votes bool // else it listens
}

func (v server) id() raft.ServerID { return raft.ServerID(fmt.Sprintf("%s/%d", v.node.id, v.seat)) }

// vote takes a seat as the node's own copy has it, and gives it up when the voters have let it go, too.
func (n *node) vote() {
	wanted := slices.Contains(n.state().Voters(), roles.NodeID(n.id))
	switch {
	case wanted && n.disk.seat == 0:
		n.disk.seats++
		n.disk.seat, n.disk.raft = n.disk.seats, 0
	case !wanted && n.disk.seat != 0 && !slices.ContainsFunc(n.disk.site.servers, func(v server) bool { return v.node == n && v.seat == n.disk.seat }):
		n.disk.seat, n.disk.raft = 0, 0
	}
}

// forlorn tells whether a voter has known no coordinator for longer than an election takes.
func (n *node) forlorn() bool { return n.clock()-n.led > 2*n.w.cfg.ledger.HeartbeatTimeout }

// serves tells whether a server is up, with the storage that it is known by.
func (s *site) serves(v server) bool {
	return v.node.up && v.node.disk.site == s && v.node.disk.seat == v.seat
}

// voters are those that are up.
func (s *site) voters() (up []*node) {
	for _, v := range s.servers {
		if v.votes && s.serves(v) {
			up = append(up, v.node)
		}
	}
	return up
}

func (s *site) votes(id roles.NodeID) bool {
	return slices.ContainsFunc(s.servers, func(v server) bool { return v.votes && v.node.id == string(id) })
}

func majority(servers []server) int {
	votes := 0
	for _, v := range servers {
		if v.votes {
			votes++
		}
	}
	return votes/2 + 1
}

// reach is how many of the voters a node that leads reaches, itself included.
func (s *site) reach(from *node, servers []server) (reached int) {
	for _, v := range servers {
		if v.votes && s.serves(v) && s.w.bothWays(from.index, v.node.index) {
			reached++
		}
	}
	return reached
}

func (s *site) quorate(from *node) bool { return s.reach(from, s.servers) >= majority(s.servers) }

// keepVoters is what the coordinator's agent does with [ledger.PlanVoters] in every round: one change at a time, which takes an
// entry's time.
func (s *site) keepVoters() {
	c := s.w.nodes[s.coordinator]
	state := c.state()
	if s.changing || state == nil {
		return
	}
	step := s.planVoters(c, state.Voters())
	if r := state.Replacement; r != nil && string(r.Old) == c.id && r.Step != roles.StepJoin {
		step.Do = ledger.VoterHandOver
	}
	if step.Do == ledger.VoterKeep {
		return
	}
	next := s.changed(step)
	if s.reach(c, next) < majority(next) {
		s.w.violate("site %s: to %s %s costs the majority", s.id, step.Do, step.Server)
	}
	s.changing = true
	term := s.term
	s.w.after(c.fsync+s.w.latency()+s.w.latency(), func() {
		s.changing = false
		if s.term != term || !s.inOffice() || !s.quorate(c) || s.reach(c, next) < majority(next) {
			return
		}
		s.w.trace("site %s: %s %s", s.id, step.Do, step.Server)
		if step.Do == ledger.VoterHandOver {
			s.handOver()
			return
		}
		s.servers = next
	})
}

func (s *site) planVoters(c *node, masters []roles.NodeID) ledger.VoterStep {
	var servers []raft.Server
	var self raft.ServerID
	lost := map[raft.ServerID]time.Time{}
	for _, v := range s.servers {
		suffrage := raft.Nonvoter
		if v.votes {
			suffrage = raft.Voter
		}
		servers = append(servers, raft.Server{ID: v.id(), Suffrage: suffrage})
		if v.node == c {
			self = v.id()
		}
		if !s.serves(v) || !s.w.bothWays(c.index, v.node.index) {
			lost[v.id()] = time.Time{}
		}
	}
	var candidates []ledger.VoterCandidate
	for _, id := range masters {
		candidates = append(candidates, s.interview(c, s.w.nodes[s.w.byID[string(id)]]))
	}
	return ledger.PlanVoters(servers, self, candidates, lost)
}

// interview is what the coordinator finds out about a master.
func (s *site) interview(c, n *node) ledger.VoterCandidate {
	id, err := peer.Decode(n.id)
	if err != nil {
		panic(err) // newNodeID made it
	}
	if n.up && n.disk.site == s && n.disk.seat != 0 && s.w.bothWays(c.index, n.index) {
		return ledger.VoterCandidate{ID: id, Server: server{node: n, seat: n.disk.seat}.id(), CaughtUp: n.disk.raft+ledger.VoterLag >= s.head()}
	}
	for _, v := range s.servers {
		if v.node == n && v.votes { // merely away
			return ledger.VoterCandidate{ID: id, Server: v.id(), CaughtUp: true}
		}
	}
	return ledger.VoterCandidate{ID: id}
}

// changed are the servers after a step.
func (s *site) changed(step ledger.VoterStep) []server {
	i := slices.IndexFunc(s.servers, func(v server) bool { return v.id() == step.Server })
	next := slices.Clone(s.servers)
	switch step.Do {
	case ledger.VoterListen:
		for _, n := range s.w.nodes {
			if v := (server{node: n, seat: n.disk.seat}); v.id() == step.Server {
				next = append(next, v)
			}
		}
	case ledger.VoterSeat:
		next[i].votes = true
	case ledger.VoterRemove:
		next = slices.Delete(next, i, i+1)
	}
	return next
}

// handOver gives the office to another voter, if one can have it.
func (s *site) handOver() {
	able := slices.DeleteFunc(s.able(), func(n *node) bool { return n.index == s.coordinator })
	if len(able) == 0 {
		return
	}
	s.vacate()
	s.takeOffice(able[s.w.rand.IntN(len(able))])
}
