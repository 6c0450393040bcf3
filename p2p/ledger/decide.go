package ledger

import (
	"context"

	"github.com/hashicorp/raft"
)

// decide takes a proposal on the coordinator: who is the author, may it propose
// that, are the records valid, do the comparisons hold; then Raft.
//
// One proposal at a time, from its check until its outcome is known. So a
// proposal is checked against exactly the state that it will be applied to, and
// the author's right to make it cannot change in between by another decision.
// The one thing that can change is who the coordinator is. A proposal that was
// checked and appended here may then be committed by the next coordinator; but
// everything before it in the log was applied here when it was checked, so the
// state is still the same one. A planner that is worried about having been
// deposed compares the keys that it planned from, which it should anyway.
func (l *Ledger) decide(ctx context.Context, p proposal) verdict {
	c, err := p.verify(l.site)
	if err != nil {
		return refuse(err)
	}
	v := l.voting()
	if v == nil {
		return later("this node is no longer a voter")
	}
	select {
	case v.deciding <- struct{}{}:
	case <-ctx.Done():
		return later("the coordinator is busy")
	}
	release := func() { <-v.deciding }

	answer, done := l.judge(c)
	if !done && sets(c.txn, RevokedKey(l.cfg.Identity.ID())) {
		answer, done = l.stepDown(v), true
	}
	if done {
		release()
		return answer
	}
	decided := make(chan verdict, 1)
	ok := l.spawn(func() {
		defer release()
		f, err := ask(v, func() raft.ApplyFuture { return v.raft.Apply(p.Command, v.timing.ProposeAttempt) })
		if err != nil {
			// Lost leadership, timeout, shutdown: it may commit or not.
			decided <- later("%v", err)
			return
		}
		res, _ := f.Response().(result)
		decided <- l.verdict(res)
	})
	if !ok {
		release()
		return later("%v", ErrClosed)
	}
	select {
	case answer := <-decided:
		return answer
	case <-ctx.Done():
		return later("no majority of the masters has answered yet")
	}
}

// stepDown answers the proposal to revoke this node, which another coordinator
// is to decide: the author asks again until there is one.
func (l *Ledger) stepDown(v *voter) verdict {
	l.spawn(func() {
		if _, err := ask(v, v.raft.LeadershipTransfer); err != nil {
			l.cfg.Log.Warn("cannot hand over before being revoked", "error", err)
		}
	})
	return later("the coordinator hands over before it is revoked")
}

// judge answers what needs no Raft: a repetition, and what would not commit.
func (l *Ledger) judge(c command) (verdict, bool) {
	if !l.IsCoordinator() {
		return later("this node is no longer the coordinator"), true
	}
	// Before the rules: the author of a repetition may have lost the right that
	// it had when the original was committed.
	if res, seen := l.copy.recall(c.author, c.txn.ID); seen {
		return l.verdict(res), true
	}
	rules := ruleSet{view: l.View(), coordinator: l.cfg.Identity.ID(), checkPolicy: l.cfg.CheckPolicy}
	if err := rules.check(c); err != nil {
		return refuse(err), true
	}
	if res := l.copy.dryRun(c.txn); res.outcome != outcomeCommitted {
		return l.verdict(res), true
	}
	return verdict{}, false
}

func (l *Ledger) verdict(r result) verdict {
	switch r.outcome {
	case outcomeCommitted:
		return verdict{Version: 1, Status: statusCommitted, Index: r.index}
	case outcomeConflict:
		return verdict{Version: 1, Status: statusConflict, Key: r.key, Index: l.Index()}
	case outcomeFull:
		return refuse(refusedf("the ledger is full (%d bytes)", MaxStateSize))
	}
	return refuse(refusedf("not a transaction that this version knows"))
}
