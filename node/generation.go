package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p/ledger"
)

// errBusy answers whoever wants to change the ledger under a member that is
// doing so already, or ends.
var errBusy = errors.New("this node is entering another generation, or ends; ask again in a moment")

// succession is what is done to a member's ledger while nobody has it open. The
// member then begins anew with what is on the disk.
type succession struct {
	do   func(ledger.Config) error
	done chan error // buffered: nobody may be listening
}

// succeed hands the ledger to do, and returns how to wait for the outcome.
func (m *member) succeed(ctx context.Context, do func(ledger.Config) error) (<-chan error, error) {
	s := succession{do: do, done: make(chan error, 1)}
	select {
	case m.successions <- s:
		return s.done, nil
	case <-m.over:
		return nil, errBusy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// giveWay makes this node a follower of a higher generation of its site once it
// sees one (history S7): from then on it neither votes nor decides in its own.
func (m *member) giveWay(ctx context.Context) ([]string, error) {
	own := m.ledger.Site()
	highest := own.Generation
	var from []peer.ID
	for _, p := range m.agent.host.Peers() {
		switch g := p.Greeting; {
		case g.Site != own.ID || !ledger.Supersedes(g.Generation, own.Generation):
		case ledger.Supersedes(g.Generation, highest):
			highest, from = g.Generation, []peer.ID{p.ID}
		case g.Generation == highest:
			from = append(from, p.ID)
		}
	}
	if len(from) == 0 {
		m.setUnvouched(nil)
		return nil, nil
	}
	c, err := m.ledger.Succession(ctx, from, highest)
	if errors.Is(err, ledger.ErrNotVouched) {
		m.setUnvouched(err)
		return []string{fmt.Sprintf("%s says that the site was recovered as generation %s, and this node does not believe it (%v): if an operator did that, reset this node; else look at that one",
			m.nodeList(from), ledger.SpellGeneration(highest), err)}, nil
	}
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("generation %s takes the place of %s", ledger.SpellGeneration(highest), ledger.SpellGeneration(own.Generation))
	m.agent.log.Warn("this node gives way to a recovered ledger", LogSite, own.ID, LogReason, what)
	m.agent.events.add("recovery", what, "from "+m.nodeList(from))
	_, err = m.succeed(ctx, func(cfg ledger.Config) error { return ledger.Adopt(cfg, c) })
	if errors.Is(err, errBusy) || ctx.Err() != nil {
		return nil, nil
	}
	return nil, err
}

func (m *member) setUnvouched(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unvouched = err
}

// yields tells whether this node has to give way to another generation before it
// may start Kubernetes.
func (m *member) yields() string {
	s := m.ledger.Status()
	m.mu.Lock()
	unvouched := m.unvouched
	m.mu.Unlock()
	if s.Superseded == 0 || unvouched != nil && !s.Yielded {
		return ""
	}
	return fmt.Sprintf("Kubernetes is not started here before this node has the decisions of generation %s", ledger.SpellGeneration(s.Superseded))
}

// fate is what becomes of the Kubernetes data of a node that entered another
// generation.
type fate int

const (
	fateKeep    fate = iota
	fateWipe         // others went on without it
	fateReset        // it goes on, as the only member of its etcd
	fateRestart      // it goes on, and forgets what it saw in a datastore that is gone
)

// fateOf judges data that was written in generation note.Generation. A server's
// survives only on the node that each recovery since kept. What an agent has is of
// no weight, but it may have watched what the kept server never heard of: the
// revisions that it waits for come a second time, with other content, and it misses
// them (github.com/kubernetes/kubernetes issues 131115 and 96842: until the kubelet
// is started again).
func fateOf(note epochNote, recoveries []ledger.Recovery, self string) (fate, string) {
	if note.Epoch == 0 {
		return fateKeep, ""
	}
	verdict := fateKeep
	for _, r := range recoveries {
		if !ledger.Supersedes(r.Generation, note.Generation) {
			continue
		}
		if !note.server() {
			verdict = fateRestart
			continue
		}
		kept := false
		for _, id := range r.Kept {
			kept = kept || id == self
		}
		if !kept {
			return fateWipe, fmt.Sprintf("its data is of ledger generation %s, and the site was recovered as generation %s without it: it wipes before it joins",
				ledger.SpellGeneration(note.Generation), ledger.SpellGeneration(r.Generation))
		}
		verdict = fateReset
	}
	return verdict, ""
}
