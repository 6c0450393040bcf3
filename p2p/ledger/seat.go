package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
)

// voting returns this node's part in Raft, nil on a follower.
func (l *Ledger) voting() *voter { return l.seat.Load() }

// Vote gives this node a seat among the voters, or takes it away: the masters
// are the voters, and masters change. A seat that is taken is a new server to
// Raft, which counts once the coordinator has let it in (KeepVoters); one that is
// left takes log and votes with it. Idempotent, and resumed at the next Open.
func (l *Ledger) Vote(yes bool) error {
	l.seating.Lock()
	defer l.seating.Unlock()
	if l.ctx.Err() != nil {
		return fmt.Errorf("change the seat among the voters: %w", ErrClosed)
	}
	v := l.voting()
	if yes == (v != nil) || yes && l.superseded > 0 {
		return nil // one that has given way to another generation votes no more in this one
	}
	m, err := readMeta(l.cfg.Dir)
	if err == nil && yes {
		err = l.takeSeat(m)
	} else if err == nil {
		err = l.leaveSeat(m, v)
	}
	if err != nil {
		return fmt.Errorf("change the seat among the voters: %w", err)
	}
	l.changed.Notify()
	return nil
}

func (l *Ledger) takeSeat(m meta) error {
	if !m.Voter {
		// What an interrupted leave left behind must not vote again.
		if err := os.RemoveAll(filepath.Join(dataDir(l.cfg.Dir, l.site), raftDir)); err != nil {
			return err
		}
		m.Voter, m.Bootstrapped, m.Founding = true, false, nil
		m.Server = string(serverID(l.cfg.Identity.ID(), randomHex(incarnationBytes)))
		if err := writeMeta(l.cfg.Dir, m); err != nil {
			return err
		}
	}
	return l.startVoter(m)
}

func (l *Ledger) leaveSeat(m meta, v *voter) error {
	m.Voter, m.Bootstrapped, m.Founding, m.Server = false, false, nil, ""
	if err := writeMeta(l.cfg.Dir, m); err != nil {
		return err
	}
	l.seat.Store(nil)
	return errors.Join(v.close(), os.RemoveAll(filepath.Join(dataDir(l.cfg.Dir, l.site), raftDir)))
}

// KeepVoters makes the masters the voters, one change at a time, on the
// coordinator; elsewhere it does nothing. A new master is let in to listen, gets
// its vote when it has caught up, and only then is one that is no master any more
// sent away (history S9). It returns what it waits for, in sentences without a
// subject's name: the peer, and the sentence.
func (l *Ledger) KeepVoters(ctx context.Context, masters []peer.ID) (waiting map[peer.ID]string, err error) {
	waiting = map[peer.ID]string{}
	if len(masters) == 0 {
		return waiting, nil
	}
	for range maxVoterChanges {
		v := l.voting()
		if v == nil || !v.inOffice() {
			return waiting, nil
		}
		f := v.raft.GetConfiguration()
		if err := f.Error(); err != nil {
			return waiting, fmt.Errorf("read the voters: %w", err)
		}
		servers := f.Configuration().Servers
		candidates, absent := v.interview(ctx, servers, masters)
		step := planVoters(servers, v.self, candidates, v.unreachable())
		for id, why := range step.waiting {
			waiting[id] = why
		}
		for id, why := range absent {
			waiting[id] = why
		}
		if step.do == voterKeep {
			return waiting, nil
		}
		if err := l.changeVoters(ctx, v, step, f.Index()); err != nil {
			return waiting, err
		}
	}
	return waiting, nil
}

// maxVoterChanges bounds the changes of one call: two for each of five masters.
const maxVoterChanges = 10

// voterChangeTimeout bounds one change, which a majority has to acknowledge.
const voterChangeTimeout = 10 * time.Second

func (l *Ledger) changeVoters(ctx context.Context, v *voter, step voterStep, index uint64) error {
	var err error
	address := raft.ServerAddress(step.server)
	switch step.do {
	case voterListen:
		_, err = ask(v, func() raft.IndexFuture { return v.raft.AddNonvoter(step.server, address, index, voterChangeTimeout) })
	case voterSeat:
		_, err = ask(v, func() raft.IndexFuture { return v.raft.AddVoter(step.server, address, index, voterChangeTimeout) })
	case voterRemove:
		_, err = ask(v, func() raft.IndexFuture { return v.raft.RemoveServer(step.server, index, voterChangeTimeout) })
	case voterHandOver:
		err = l.TransferLeadership(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", step.do, step.server, err)
	}
	id, _ := serverPeer(step.server)
	l.cfg.Log.Info("voters changed", "change", string(step.do), "peer", id)
	l.changed.Notify()
	return nil
}

// interview asks the masters that do not vote, or do not answer as the voters
// that they are, which storage they have and how far it is.
func (v *voter) interview(ctx context.Context, servers []raft.Server, masters []peer.ID) ([]voterCandidate, map[peer.ID]string) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	last := v.raft.LastIndex()
	lost := v.unreachable()
	absent := map[peer.ID]string{}
	var all []voterCandidate
	for _, id := range masters {
		i := slices.IndexFunc(servers, func(s raft.Server) bool {
			p, ok := serverPeer(s.ID)
			return ok && p == id && s.Suffrage == raft.Voter
		})
		if i >= 0 {
			if _, missing := lost[servers[i].ID]; !missing {
				all = append(all, voterCandidate{id: id, server: servers[i].ID, caughtUp: true})
				continue
			}
		}
		h, err := v.layer.ask(ctx, id)
		p, ok := serverPeer(raft.ServerID(h.Server))
		switch {
		case err == nil && ok && p == id:
			all = append(all, voterCandidate{id: id, server: raft.ServerID(h.Server), caughtUp: h.Last+voterLag >= last})
		case i >= 0: // a voter that is merely away keeps its seat
			all = append(all, voterCandidate{id: id, server: servers[i].ID, caughtUp: true})
		default:
			all = append(all, voterCandidate{id: id})
			absent[id] = "it is to vote on decisions, and does not answer as a voter yet"
		}
	}
	return all, absent
}

// voterLag is by how many entries a voter may be behind and count as caught up:
// fewer than any follower is behind in a site that decides all the time.
const voterLag = 8

// voterCandidate is a master, with the storage that it votes with; an empty server
// has not answered.
type voterCandidate struct {
	id       peer.ID
	server   raft.ServerID
	caughtUp bool
}

type voterChange string

const (
	voterKeep     voterChange = ""
	voterListen   voterChange = "let listen"
	voterSeat     voterChange = "give a vote to"
	voterRemove   voterChange = "take the vote of"
	voterHandOver voterChange = "hand over from"
)

type voterStep struct {
	do      voterChange
	server  raft.ServerID
	waiting map[peer.ID]string
}

// planVoters returns the next change that makes the candidates the voters. It is
// pure. lost are the servers that miss the coordinator's heartbeats.
func planVoters(servers []raft.Server, self raft.ServerID, candidates []voterCandidate, lost map[raft.ServerID]time.Time) voterStep {
	step := voterStep{waiting: map[peer.ID]string{}}
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
		if c.server == "" {
			complete = false
			continue
		}
		wanted[c.server] = true
		s, there := server(c.server)
		switch {
		case !there:
			step.do, step.server = voterListen, c.server
			return step
		case s.Suffrage != raft.Voter && !c.caughtUp:
			complete = false
			step.waiting[c.id] = "it is to vote on decisions, and has not caught up with them yet"
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
	for _, s := range servers {
		_, missing := lost[s.ID]
		id, _ := serverPeer(s.ID)
		switch {
		case wanted[s.ID]:
		case s.Suffrage != raft.Voter:
			step.do, step.server = voterRemove, s.ID
			return step
		case !complete:
			// Its vote may be needed until there is another one.
		case s.ID == self:
			if len(wanted) > 0 {
				step.do, step.server = voterHandOver, s.ID
			}
		case !missing && live-1 <= (voters-1)/2:
			step.waiting[id] = "it is no master any more, and its vote is still needed for a majority"
		default:
			step.do, step.server = voterRemove, s.ID
			return step
		}
	}
	if step.do != voterKeep {
		return step
	}
	for _, c := range candidates {
		if s, there := server(c.server); there && s.Suffrage != raft.Voter && c.caughtUp {
			step.do, step.server = voterSeat, c.server
			return step
		}
	}
	return step
}
