package node

import (
	"slices"
	"strings"

	"github.com/muster-edge/muster/roles"
)

// K3s reads its agent token when it starts. So when a node was revoked, and the
// token with it, the masters restart K3s one after another. Who is next follows
// from what all say of themselves: the one whose token is of the earliest epoch,
// and of those with the same the one with the lowest ID; and none before all
// others serve. What is heard late only shows earlier epochs, and so makes others
// wait longer.
//
// A master that is dead holds the rest up. That is the choice: without it the next
// restart could cost etcd its quorum. Until then those that wait let no new worker
// in, which joins another one, and the former token still registers a Node with
// them, which a revoked machine can only do where it reaches their API without the
// mesh.

// agentTokenTurn returns what a master whose K3s runs with the agent token of an
// earlier epoch, own, waits for before it restarts; empty: it is its turn. look
// returns what a live node says of itself.
func agentTokenTurn(self roles.NodeID, state roles.State, own uint64, look func(roles.NodeID) (Facts, bool)) string {
	if state.Replacement != nil {
		return "once the replacement of a master is over"
	}
	var ill, before []string
	for _, m := range state.Members {
		if m.Removed || !state.Roles[m.ID].IsMaster() {
			continue
		}
		f, alive := look(m.ID)
		switch epoch := f.Kubernetes.TokenEpoch; {
		case !alive || !f.Kubernetes.Serving || !f.Kubernetes.NodeReady:
			ill = append(ill, string(m.ID))
		case epoch < own || epoch == own && m.ID < self:
			before = append(before, string(m.ID))
		}
	}
	slices.Sort(ill)
	slices.Sort(before)
	switch {
	case len(ill) > 0:
		return "once Kubernetes is healthy on " + strings.Join(ill, ", ")
	case len(before) > 0:
		return "after that of " + strings.Join(before, ", ")
	}
	return ""
}

// takeToken decides whether this master's K3s may be restarted for a new agent
// token, or says why not yet.
func (m *member) takeToken(state roles.State) (now bool, why string) {
	k := m.agent.distro.State()
	if !k.FormerToken {
		return false, ""
	}
	wait := agentTokenTurn(m.self(), state, k.TokenEpoch, m.liveFacts(state))
	if wait == "" {
		return true, ""
	}
	return false, "K3s on this master still accepts the agent token from before a node was revoked; it is restarted " + wait
}
