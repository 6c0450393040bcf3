package node

import (
	"fmt"
	"slices"
	"strings"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// K3s reads its agent token when it starts. So when a node was revoked, and the
// token with it, the masters restart K3s one after another, in the order of their
// IDs: each waits until those before it say that they have taken the token of this
// enrolment epoch, and until all others serve.
//
// A master that is dead holds the rest up. That is the choice: without it the next
// restart could cost etcd its quorum, and what the former token still does is
// register a Node with a master that the revoked machine does not reach any more.

// agentTokenTurn returns what a master waits for before it restarts K3s; empty: it
// is its turn. look returns what a live node says of itself.
func agentTokenTurn(self roles.NodeID, state roles.State, epoch uint64, look func(roles.NodeID) (Facts, bool)) string {
	if state.Replacement != nil {
		return "until a master is replaced"
	}
	var ill, before []string
	for _, m := range state.Members {
		if m.ID == self || m.Removed || !state.Roles[m.ID].IsMaster() {
			continue
		}
		f, alive := look(m.ID)
		switch {
		case !alive || !f.Kubernetes.Serving || !f.Kubernetes.NodeReady:
			ill = append(ill, string(m.ID))
		case m.ID < self && f.Kubernetes.TokenEpoch < epoch:
			before = append(before, string(m.ID))
		}
	}
	slices.Sort(ill)
	slices.Sort(before)
	switch {
	case len(ill) > 0:
		return "until Kubernetes is healthy on " + strings.Join(ill, ", ")
	case len(before) > 0:
		return "after " + strings.Join(before, ", ")
	}
	return ""
}

// takeToken decides whether this master's K3s may be restarted for a new agent
// token, or why not yet.
func (m *member) takeToken(view ledger.View, state roles.State) (now bool, why string) {
	if !m.agent.distro.State().FormerToken {
		return false, ""
	}
	wait := agentTokenTurn(m.self(), state, ledger.EnrolmentEpoch(view), m.liveFacts(state))
	if wait == "" {
		return true, ""
	}
	return false, fmt.Sprintf("K3s on this master still accepts the agent token from before a node was revoked; it is restarted %s", wait)
}

// tookToken notes that K3s was started with the agent token of an enrolment epoch.
func (m *member) tookToken(view ledger.View, restarted bool) {
	a := m.agent
	if a.distro.State().FormerToken {
		return
	}
	epoch := ledger.EnrolmentEpoch(view)
	a.mu.Lock()
	news := a.tokenEpoch != epoch
	a.tokenEpoch = epoch
	a.mu.Unlock()
	if restarted {
		a.events.add("kubernetes", "K3s restarted", "the agent token was replaced")
	}
	if news {
		a.changed.Notify()
	}
}
