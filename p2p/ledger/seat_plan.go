package ledger

import (
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
)

// VoterCandidate is a master, with the storage that it votes with; an empty server
// has not answered.
type VoterCandidate struct {
	ID       peer.ID
	Server   raft.ServerID
	CaughtUp bool
}

// VoterChange is what happens to one voter.
type VoterChange string

const (
	VoterKeep     VoterChange = ""
	VoterListen   VoterChange = "let listen"
	VoterSeat     VoterChange = "give a vote to"
	VoterRemove   VoterChange = "take the vote of"
	VoterHandOver VoterChange = "hand over from"
)

// VoterStep is the next change of the voters. Waiting is what stands in the way of
// others, in sentences without the peer's name.
type VoterStep struct {
	Do      VoterChange
	Server  raft.ServerID
	Waiting map[peer.ID]string
}

// PlanVoters returns the next change that makes the candidates the voters. It is
// pure, and exported for package e2e/sim. lost are the servers that miss the coordinator's heartbeats.
func PlanVoters(servers []raft.Server, self raft.ServerID, candidates []VoterCandidate, lost map[raft.ServerID]time.Time) VoterStep {
	step := VoterStep{Waiting: map[peer.ID]string{}}
	server := func(id raft.ServerID) (raft.Server, bool) {
		i := slices.IndexFunc(servers, func(s raft.Server) bool { return s.ID == id })
		if i < 0 {
			return raft.Server{}, false
		}
		return servers[i], true
	}
	wanted := map[raft.ServerID]bool{}
	complete := true
	for _, c := range candidates {
		if c.Server == "" {
			complete = false
			continue
		}
		wanted[c.Server] = true
		s, there := server(c.Server)
		switch {
		case !there:
			step.Do, step.Server = VoterListen, c.Server
			return step
		case s.Suffrage != raft.Voter && !c.CaughtUp:
			complete = false
			step.Waiting[c.ID] = "it is to vote on decisions, and has not caught up with them yet"
		}
	}
	voters, live := 0, 0
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			voters++
			if _, missing := lost[s.ID]; !missing {
				live++
			}
		}
	}
	// New voters answer masters only, so a coordinator that is none can let nobody in.
	if !wanted[self] {
		for _, s := range servers {
			if _, missing := lost[s.ID]; wanted[s.ID] && s.Suffrage == raft.Voter && !missing {
				step.Do, step.Server = VoterHandOver, self
				return step
			}
		}
	}
	// One that is dead goes before another one gets its vote, one that lives after that: the fewest failures are too many for
	// neither.
	later := VoterStep{Waiting: step.Waiting}
	for _, s := range servers {
		_, missing := lost[s.ID]
		id, _ := serverPeer(s.ID)
		switch {
		case wanted[s.ID]:
		case s.Suffrage != raft.Voter, complete && missing && s.ID != self:
			step.Do, step.Server = VoterRemove, s.ID
			return step
		case !complete:
			// Its vote may be needed until there is another one.
		case s.ID == self:
		case live-1 <= (voters-1)/2:
			step.Waiting[id] = "it is no master any more, and its vote is still needed for a majority"
		case later.Do == VoterKeep:
			later.Do, later.Server = VoterRemove, s.ID
		}
	}
	for _, c := range candidates {
		if s, there := server(c.Server); there && s.Suffrage != raft.Voter && c.CaughtUp {
			step.Do, step.Server = VoterSeat, c.Server
			return step
		}
	}
	return later
}
