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

// VoteCounts tells whether the voters still count on this node, as far as it knows.
// One that is no master any more keeps its seat until they have let it go: else the
// others have one failure less to spare meanwhile (history S9). Raft says so to one
// that is up; one that was away hears no coordinator any more, while others have one.
func (l *Ledger) VoteCounts() bool {
	v := l.voting()
	if v == nil || !slices.ContainsFunc(v.servers(), func(s raft.Server) bool { return s.ID == v.self }) {
		return false
	}
	if !v.forlorn() {
		return true
	}
	_, others := l.follow.coordinator()
	return !others
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
		step := PlanVoters(servers, v.self, candidates, v.unreachable())
		for id, why := range step.Waiting {
			waiting[id] = why
		}
		for id, why := range absent {
			waiting[id] = why
		}
		if step.Do == VoterKeep {
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

func (l *Ledger) changeVoters(ctx context.Context, v *voter, step VoterStep, index uint64) error {
	var err error
	address := raft.ServerAddress(step.Server)
	switch step.Do {
	case VoterListen:
		_, err = ask(v, func() raft.IndexFuture { return v.raft.AddNonvoter(step.Server, address, index, voterChangeTimeout) })
	case VoterSeat:
		_, err = ask(v, func() raft.IndexFuture { return v.raft.AddVoter(step.Server, address, index, voterChangeTimeout) })
	case VoterRemove:
		_, err = ask(v, func() raft.IndexFuture { return v.raft.RemoveServer(step.Server, index, voterChangeTimeout) })
	case VoterHandOver:
		err = l.TransferLeadership(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", step.Do, step.Server, err)
	}
	id, _ := serverPeer(step.Server)
	l.cfg.Log.Info("voters changed", "change", string(step.Do), "peer", id)
	l.changed.Notify()
	return nil
}

// interview asks the masters that do not vote, or do not answer as the voters
// that they are, which storage they have and how far it is.
func (v *voter) interview(ctx context.Context, servers []raft.Server, masters []peer.ID) ([]VoterCandidate, map[peer.ID]string) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	last := v.raft.LastIndex()
	lost := v.unreachable()
	absent := map[peer.ID]string{}
	var all []VoterCandidate
	for _, id := range masters {
		i := slices.IndexFunc(servers, func(s raft.Server) bool {
			p, ok := serverPeer(s.ID)
			return ok && p == id && s.Suffrage == raft.Voter
		})
		if i >= 0 {
			if _, missing := lost[servers[i].ID]; !missing {
				all = append(all, VoterCandidate{ID: id, Server: servers[i].ID, CaughtUp: true})
				continue
			}
		}
		h, err := v.layer.ask(ctx, id)
		p, ok := serverPeer(raft.ServerID(h.Server))
		switch {
		case err == nil && ok && p == id:
			all = append(all, VoterCandidate{ID: id, Server: raft.ServerID(h.Server), CaughtUp: h.Last+VoterLag >= last})
		case i >= 0: // a voter that is merely away keeps its seat
			all = append(all, VoterCandidate{ID: id, Server: servers[i].ID, CaughtUp: true})
		default:
			all = append(all, VoterCandidate{ID: id})
			absent[id] = "it is to vote on decisions, and does not answer as a voter yet"
		}
	}
	return all, absent
}

// VoterLag is by how many entries a voter may be behind and count as caught up:
// fewer than any follower is behind in a site that decides all the time.
const VoterLag = 8
