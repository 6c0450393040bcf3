package ledger

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Status is what a node can say about the ledger, for status and why.
type Status struct {
	Site        Site
	Voter       bool
	Voters      []peer.ID
	Coordinator peer.ID // "" when none is known
	// Quorum: decisions can be made, as far as this node knows.
	Quorum bool
	Index  uint64

	// Unreachable are the voters that miss the coordinator's heartbeats, with
	// the time of their last answer. Only the coordinator knows.
	Unreachable map[peer.ID]time.Time
	// Following is the node that feeds the local copy, "" when nobody does or
	// this node is the coordinator. LastContact is when something was heard.
	Following   peer.ID
	LastContact time.Time
	// Behind is how many indices the copy lacks of what its server last
	// announced.
	Behind uint64

	// Superseded is a generation higher than ours that another node of the site
	// is in: this copy is history. 0: none seen.
	Superseded uint64
	// Yielded: this node has given way to it for good and waits for its copy.
	Yielded bool
	// Problem is what keeps the copy, or Raft's term, from being written to disk.
	Problem error
}

// Status returns what is known now. It asks nobody.
func (l *Ledger) Status() Status {
	s := Status{
		Site:    l.site,
		Voter:   l.voting() != nil,
		Voters:  l.voters(),
		Index:   l.Index(),
		Problem: l.copy.err(),
	}
	s.Coordinator, s.Quorum = l.Coordinator()
	l.follow.fill(&s)
	s.Superseded = max(s.Superseded, l.superseded)
	s.Yielded = l.superseded > 0
	if v := l.voting(); v != nil {
		s.Problem = errors.Join(s.Problem, v.stable.err())
		if t := v.raft.LastContact(); t.After(s.LastContact) {
			s.LastContact = t
		}
		if v.raft.State() == raft.Leader {
			s.Quorum = true // a leader without one steps down within its lease
			s.LastContact = time.Now()
			s.Unreachable = map[peer.ID]time.Time{}
			for id, t := range v.unreachable() {
				if p, ok := serverPeer(id); ok {
					s.Unreachable[p] = t
				}
			}
		}
	}
	return s
}

func (f *followClient) fill(s *Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Following, s.LastContact, s.Superseded = f.server, f.heard, f.superseded
	if f.server != "" && f.last.Index > s.Index {
		s.Behind = f.last.Index - s.Index
	}
}

// Waiting says in sentences what keeps this node from deciding or following;
// empty when nothing does.
func (s Status) Waiting() []string {
	var out []string
	if s.Superseded > 0 {
		out = append(out, fmt.Sprintf("the site was recovered as generation %s without this node (generation %s here): it gives way as soon as it can have that generation's decisions", SpellGeneration(s.Superseded), SpellGeneration(s.Site.Generation)))
	}
	if s.Problem != nil {
		out = append(out, fmt.Sprintf("the copy of the decisions cannot be written: %v", s.Problem))
	}
	if !s.Quorum {
		out = append(out, fmt.Sprintf("no coordinator: a majority of the %d masters must be up and reach each other", len(s.Voters)))
	}
	if !s.Voter && s.Following == "" {
		out = append(out, "no master can be reached to follow the decisions")
	}
	if s.Behind > 0 {
		out = append(out, fmt.Sprintf("the copy of the decisions is %d behind", s.Behind))
	}
	return out
}
