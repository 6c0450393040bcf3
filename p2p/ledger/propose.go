package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Proposals and questions that a node has in hand for others. A voter passes on
// those of many.
const (
	maxInHand       = 64
	maxInHandOfPeer = 16
)

// proposeRequest travels from the author to the coordinator, directly or
// through one voter.
type proposeRequest struct {
	Version  int      `json:"version"`
	Site     Site     `json:"site"`
	Hops     int      `json:"hops,omitempty"`
	Proposal proposal `json:"proposal"`
}

// verdict is the coordinator's answer.
type verdict struct {
	Version int    `json:"version"`
	Status  string `json:"status"`
	Index   uint64 `json:"index,omitempty"`  // committed: of the command; conflict: of the state that conflicts
	Key     string `json:"key,omitempty"`    // conflict
	Reason  string `json:"reason,omitempty"` // refused, later
}

const (
	statusCommitted = "committed"
	statusConflict  = "conflict"
	statusRefused   = "refused"
	statusLater     = "later" // not decided, perhaps undecided for good: ask again with the same ID
)

func later(format string, args ...any) verdict {
	return verdict{Version: 1, Status: statusLater, Reason: fmt.Sprintf(format, args...)}
}

func refuse(err error) verdict {
	var r *RefusedError
	reason := err.Error()
	if errors.As(err, &r) {
		reason = r.Reason
	}
	return verdict{Version: 1, Status: statusRefused, Reason: reason}
}

// Propose asks the coordinator to commit t, in the name of this node, and
// returns the index when the local copy holds it. The request is repeated with
// the same ID until somebody knows what became of it, so it takes effect once.
//
// Errors: ErrConflict (read again, decide again; the local copy then holds what
// was in the way), ErrRefused, ErrNoQuorum when nobody could say within ctx or
// Timing.ProposeGiveUp (t may still commit), ErrClosed.
func (l *Ledger) Propose(ctx context.Context, t Txn) (uint64, error) {
	if t.ID == (TxnID{}) {
		t.ID = NewTxnID()
	}
	p, err := signProposal(l.cfg.Identity, l.site, t)
	if err != nil {
		return 0, fmt.Errorf("propose: %w", &RefusedError{Reason: err.Error()})
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timing.ProposeGiveUp)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()

	v, via := l.persist(ctx, p)
	switch v.Status {
	case statusCommitted:
		if err := l.await(ctx, v.Index, via); err != nil {
			return 0, fmt.Errorf("propose: committed at %d, but not here yet: %w", v.Index, err)
		}
		return v.Index, nil
	case statusConflict:
		// An early return only makes the caller decide from old state again.
		_ = l.await(ctx, v.Index, via)
		return 0, fmt.Errorf("propose: %w", &ConflictError{Key: v.Key})
	case statusRefused:
		return 0, fmt.Errorf("propose: %w", &RefusedError{Reason: v.Reason})
	}
	if l.ctx.Err() != nil {
		return 0, fmt.Errorf("propose: %w", ErrClosed)
	}
	return 0, fmt.Errorf("propose: %w (%s)", ErrNoQuorum, v.Reason)
}

// persist tries until there is a verdict or ctx ends; via is who gave it.
func (l *Ledger) persist(ctx context.Context, p proposal) (v verdict, via peer.ID) {
	for try := 1; ; try++ {
		changed := l.Changed()
		v, via = l.attempt(ctx, p)
		if v.Status != statusLater {
			return v, via
		}
		// Another coordinator may be there at once, or after an election.
		wait := time.Duration(1+rand.N(int64(min(try, 10)))) * 50 * time.Millisecond
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return v, via
		case <-changed:
			t.Stop()
			if !pause(ctx, 20*time.Millisecond) { // not a busy loop when much changes
				return v, via
			}
		case <-t.C:
		}
	}
}

func (l *Ledger) attempt(ctx context.Context, p proposal) (verdict, peer.ID) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timing.ProposeAttempt)
	defer cancel()
	if l.IsCoordinator() {
		return l.decide(ctx, p), l.cfg.Identity.ID()
	}
	last := later("no coordinator is known")
	for _, to := range l.coordinators() {
		v, err := l.send(ctx, to, proposeRequest{Version: 1, Site: l.site, Proposal: p})
		if err != nil {
			last = later("%v", err)
			continue
		}
		if v.Status != statusLater {
			return v, to
		}
		last = v
	}
	return last, ""
}

// coordinators returns whom to ask, best first. A voter that knows no
// coordinator has nobody to ask: the other voters know none either, or will
// tell it.
func (l *Ledger) coordinators() []peer.ID {
	var out []peer.ID
	self := l.cfg.Identity.ID()
	if c, ok := l.Coordinator(); ok && c != self {
		out = append(out, c)
	}
	if l.voting() != nil {
		return out
	}
	rest := l.voters()
	if len(rest) == 0 {
		rest = l.members()
	}
	rand.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	for _, p := range rest {
		if p != self && (len(out) == 0 || p != out[0]) {
			out = append(out, p)
		}
	}
	return out
}

func (l *Ledger) send(ctx context.Context, to peer.ID, req proposeRequest) (verdict, error) {
	var v verdict
	if err := call(ctx, l.cfg.Host, to, ProtocolPropose, req, &v); err != nil {
		return verdict{}, fmt.Errorf("ask %s: %w", short(to), err)
	}
	switch v.Status {
	case statusCommitted, statusConflict, statusRefused, statusLater:
		return v, nil
	}
	return verdict{}, fmt.Errorf("ask %s: unknown answer %q", short(to), v.Status)
}

// servePropose answers a proposal of another node.
func (l *Ledger) servePropose(ctx context.Context, s network.Stream) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timing.ProposeAttempt)
	defer cancel()
	deadline, _ := ctx.Deadline()
	if err := s.SetDeadline(deadline.Add(time.Second)); err != nil {
		return err
	}
	var req proposeRequest
	if err := readMessage(bufio.NewReader(s), &req); err != nil {
		return err
	}
	release, ok := l.hands.take(s.Conn().RemotePeer())
	if !ok {
		return writeMessage(s, later("too many proposals in hand"))
	}
	defer release()
	return writeMessage(s, l.answer(ctx, req))
}

func (l *Ledger) answer(ctx context.Context, req proposeRequest) verdict {
	if req.Version != 1 {
		return refuse(refusedf("unknown version %d of the proposal", req.Version))
	}
	if req.Site != l.site {
		return refuse(refusedf("the proposal is for %v, this is %v", req.Site, l.site))
	}
	if l.IsCoordinator() {
		return l.decide(ctx, req.Proposal)
	}
	c, known := l.Coordinator()
	if !known || c == l.cfg.Identity.ID() || req.Hops > 0 {
		return later("no coordinator: too few masters are reachable")
	}
	req.Hops++
	v, err := l.send(ctx, c, req)
	if err != nil {
		return later("%v", err)
	}
	return v
}

// await returns when the local copy holds index. The stream may be on its way,
// or from a server that is itself behind: then via, who knows, is followed.
func (l *Ledger) await(ctx context.Context, index uint64, via peer.ID) error {
	patience := time.NewTimer(l.cfg.Timing.FollowRetry)
	defer patience.Stop()
	for {
		changed := l.Changed()
		if l.Index() >= index {
			return nil
		}
		select {
		case <-changed:
		case <-patience.C:
			l.follow.prefer(via)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// call sends one message to a peer and reads one answer.
func call(ctx context.Context, host Host, to peer.ID, proto protocol.ID, req, answer any) (err error) {
	s, err := host.Open(ctx, to, proto)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = s.Reset() // err is what went wrong
			return
		}
		_ = s.Close() // the answer is here; the other side may have closed first
	}()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })() // ends a blocked read
	if deadline, ok := ctx.Deadline(); ok {
		if err := s.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if err := writeMessage(s, req); err != nil {
		return err
	}
	return readMessage(bufio.NewReader(s), answer)
}
