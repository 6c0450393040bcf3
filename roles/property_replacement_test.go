package roles

import (
	"maps"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// lease lets a machine restart, or takes the permission back.
func (h *history) lease(t *rapid.T) {
	m := h.machines[h.pick(t, func(NodeID, *machine) bool { return true })]
	m.lease = !m.lease
}

// loseMaster takes a master away for longer than any patience, under the eyes of one coordinator.
func (h *history) loseMaster(t *rapid.T) {
	id := h.pick(t, func(id NodeID, _ *machine) bool { return h.state.Roles[id].IsMaster() && id != h.coordinator })
	h.lose(t, id)
	h.now += 3 * time.Minute
}

// strand leaves etcd with two members of which one is lost, before anybody else has joined (history S16).
func (h *history) strand(t *rapid.T) {
	if !h.state.hasEtcd() || h.state.formed() {
		t.Skip("no control plane forms")
	}
	if len(h.etcd) == 1 {
		h.startKubernetes(t, h.pick(t, func(id NodeID, _ *machine) bool {
			return h.inService(id) && h.state.Roles[id].IsMaster() && h.memberOf(id) == ""
		}))
	}
	if len(h.etcd) != 2 {
		t.Skip("etcd has not two members")
	}
	h.lose(t, h.pick(t, func(id NodeID, _ *machine) bool { return h.inService(id) && h.memberOf(id) != "" }))
	h.newCoordinator(t)
	h.now += FormationGrace
}

func (h *history) askForOne(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
		t.Skip("not this time")
	}
	id := h.pick(t, func(id NodeID, _ *machine) bool {
		_, asked := h.state.Requests[id]
		return h.state.decidable(id) && !asked
	})
	h.ask(id, rapid.SampledFrom([]Request{RequestLeave, RequestRemove, RequestReplace}).Draw(t, "request"))
}

func (h *history) executeNow(t *rapid.T) {
	if h.state.Replacement == nil {
		t.Skip("nobody is replaced")
	}
	before := h.etcdServes()
	h.doExecute(t, *h.state.Replacement)
	require.True(t, !before || h.etcdServes() || len(h.etcd) == 0, "a removal cost etcd its majority")
}

// doExecute checks that etcd is only ever cut down to one of two.
func (h *history) doExecute(t *rapid.T, r Replacement) bool {
	alone := h.state.hasEtcd() && len(h.etcd) > 0 && !h.etcdServes()
	owners := slices.Sorted(maps.Values(h.etcd))
	done := h.execute(r)
	if done && alone {
		require.ElementsMatch(t, []NodeID{r.Old, r.Survivor}, owners, "what others of etcd wrote is lost")
	}
	return done
}

// lookForLater is an executor that freezes between its look and its deed (history S14).
func (h *history) lookForLater(t *rapid.T) {
	if h.state.Replacement == nil {
		t.Skip("nobody is replaced")
	}
	h.looked = append(h.looked, *h.state.Replacement)
}

func (h *history) executeLate(t *rapid.T) {
	if len(h.looked) == 0 {
		t.Skip("nobody looked")
	}
	r := rapid.SampledFrom(h.looked).Draw(t, "looked")
	owner, there := h.etcd[r.Member]
	before := h.state.Replacement
	if !h.doExecute(t, r) {
		return
	}
	require.True(t, !there || owner == r.Old, "a late executor removed somebody else")
	if before == nil || before.Old != r.Old {
		require.Equal(t, before, h.state.Replacement, "a late executor moved another replacement on")
	}
}

// checkReplacement is the rule of replacement seen from outside.
func (h *history) checkReplacement(t *rapid.T, state State, r Replacement) {
	open := state.Replacement
	require.True(t, open == nil || open.Step == StepJoin, "two replacements at a time")
	m := h.machines[r.Old]
	require.False(t, m.lease, "the holder of a reboot lease is replaced")
	if state.Roles[r.Old].IsMaster() {
		require.Greater(t, state.Policy.Masters(), 1, "the only master is replaced")
	}
	if _, asked := state.Requests[r.Old]; asked && (open == nil || r.Gone || r.Reason == "asked to "+string(RequestReplace)) {
		return
	}
	require.True(t, state.Policy.DynamicRoles, "replaced though it was only to be reported")
	require.False(t, h.inService(r.Old), "a live master is replaced")
	after := state.Policy.ReplaceAfter
	if !state.formed() {
		after = min(after, FormationGrace)
	}
	require.GreaterOrEqual(t, h.now-max(h.office, h.lastSeen[r.Old]), after, "a master is replaced too early")
	require.True(t, r.Successor != "" && h.inService(r.Successor) || r.Survivor != "", "replaced, and nobody takes the place")
	if state.hasEtcd() && r.Member != "" && r.Survivor == "" {
		require.True(t, h.etcdServes(), "replaced without a majority of etcd")
	}
	if r.Survivor != "" {
		require.False(t, h.etcdServes() || state.formed(), "etcd is cut down without need")
		require.ElementsMatch(t, []NodeID{r.Old, r.Survivor}, slices.Sorted(maps.Values(h.etcd)), "etcd is cut down to one of more than two")
	}
}
