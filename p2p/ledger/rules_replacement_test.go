package ledger

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// replace is the coordinator's proposal of a replacement's record.
func (c *court) replace(r Replacement) error {
	return c.ask(c.coordinator, Txn{}.Set(KeyReplacement, c.json(r)))
}

func TestAReplacementTakesItsStepsInOrder(t *testing.T) {
	c := newCourt(t)
	old, successor, other := c.master.ID().String(), c.w1.ID().String(), c.w2.ID().String()
	r := Replacement{Old: old, Member: "8e9e05c52164694d", Successor: successor, Step: StepRemove, Reason: "dead for 15m0s"}

	bad := r
	bad.Member = "n2-b"
	require.ErrorContains(t, c.replace(bad), "etcd member")
	bad = r
	bad.Old = "n2"
	require.ErrorContains(t, c.replace(bad), "not a peer ID")
	bad = r
	bad.Successor = old
	require.ErrorContains(t, c.replace(bad), "itself")
	bad = r
	bad.Step = "jump"
	require.ErrorContains(t, c.replace(bad), "does not follow")

	require.NoError(t, c.replace(r))
	c.put(KeyReplacement, r)
	require.ErrorContains(t, c.replace(r), "does not follow", "never two at a time, and no step twice")
	someone := r
	someone.Old, someone.Step = other, StepRemoved
	require.ErrorContains(t, c.replace(someone), "does not follow", "S14: another node's replacement is not moved on")
	another := r
	another.Member, another.Step = "1", StepRemoved
	require.ErrorContains(t, c.replace(another), "does not follow", "S14: nor another member's")

	another.Step = StepRemove
	require.NoError(t, c.replace(another), "it joined etcd after all")
	another.Member = ""
	require.ErrorContains(t, c.replace(another), "does not follow")

	r.Step = StepRemoved
	require.NoError(t, c.replace(r))
	c.put(KeyReplacement, r)
	r.Step = StepJoin
	require.NoError(t, c.replace(r))
	c.put(KeyReplacement, r)
	require.ErrorContains(t, c.replace(Replacement{Old: other, Step: StepRemove}), "does not follow")
	require.NoError(t, c.replace(Replacement{Old: successor, Successor: other, Step: StepRemove}), "the successor is lost too")

	require.ErrorContains(t, c.ask(c.master, Txn{}.Set(KeyReplacement, c.json(r))), "only the coordinator")
	require.ErrorContains(t, c.ask(c.w1, Txn{}.Del(KeyReplacement)), "only the coordinator")
	require.NoError(t, c.ask(c.coordinator, Txn{}.Del(KeyReplacement)))
}

func TestS16OnlyAMasterThatSharesEtcdWithTheLostOneGoesOnAlone(t *testing.T) {
	c := newCourt(t)
	old, worker := c.master.ID().String(), c.w1.ID().String()
	r := Replacement{Old: old, Member: "8e", Survivor: c.coordinator.ID().String(), Step: StepRemove, Reason: "dead for 1m0s"}
	require.NoError(t, c.replace(r))
	for _, survivor := range []string{old, worker, c.out.ID().String()} {
		bad := r
		bad.Survivor = survivor
		require.ErrorContains(t, c.replace(bad), "cannot go on alone")
	}
	bad := r
	bad.Survivor = "n1"
	require.ErrorContains(t, c.replace(bad), "not a peer ID")
	bad = r
	bad.Member = ""
	require.ErrorContains(t, c.replace(bad), "cannot go on alone")
	c.put(KeyReplacement, r)
	r.Step, r.Survivor = StepRemoved, ""
	require.ErrorContains(t, c.replace(r), "does not follow")
}

func TestWhoMayAskForANodesRemoval(t *testing.T) {
	c := newCourt(t)
	of := func(do string) []byte { return c.json(Request{Do: do}) }
	w1, w2 := RequestKey(c.w1.ID()), RequestKey(c.w2.ID())
	require.NoError(t, c.ask(c.w1, Txn{}.Set(w1, of(RequestLeave))))
	require.NoError(t, c.ask(c.master, Txn{}.Set(w1, of(RequestRemove))))
	require.NoError(t, c.ask(c.master, Txn{}.Set(RequestKey(c.master.ID()), of(RequestReplace))))
	require.ErrorContains(t, c.ask(c.w1, Txn{}.Set(w2, of(RequestRemove))), "only a master")
	require.ErrorContains(t, c.ask(c.w1, Txn{}.Set(w1, of(RequestRemove))), "only a master")
	require.ErrorContains(t, c.ask(c.master, Txn{}.Set(w1, of(RequestLeave))), "itself")
	require.ErrorContains(t, c.ask(c.master, Txn{}.Set(w1, of("praise"))), "nothing that can be asked")
	require.ErrorContains(t, c.ask(c.master, Txn{}.Set(RequestKey(c.out.ID()), of(RequestRemove))), "not a member")
	require.ErrorContains(t, c.ask(c.out, Txn{}.Set(RequestKey(c.out.ID()), of(RequestLeave))), "not a member")
}

func TestS18ARemovedNodeIsNoMemberNoMasterAndMayNotProposeOrEnrol(t *testing.T) {
	c := newCourt(t)
	gone := Txn{}.Set(RemovedKey(c.master.ID()), c.json(Removed{Reason: "asked to remove"}))
	require.ErrorContains(t, c.ask(c.w1, gone), "only the coordinator")
	require.NoError(t, c.ask(c.coordinator, gone))
	c.put(RemovedKey(c.master.ID()), Removed{Reason: "asked to remove"})

	view := View{index: 100, entries: c.entries}
	require.False(t, IsMember(view, c.master.ID()), "though it founded the site")
	require.NotContains(t, Masters(view), c.master.ID())
	require.ErrorContains(t, c.ask(c.master, Txn{}.Set(DNSKey("a.example"), c.json(DNS{A: []string{"192.0.2.1"}}))), "not a member")
	require.ErrorContains(t, c.ask(c.coordinator, Txn{}.Set(MemberKey(c.master.ID()), c.json(c.member(c.master, "host")))), "was removed")
	require.ErrorContains(t, c.ask(c.coordinator, Txn{}.Del(RemovedKey(c.master.ID()))), "cannot be deleted")
}
