package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// removedSentence is what a node waits for that is no member any more.
const removedSentence = "this node was removed from the site and runs nothing of it; `muster reset` makes it a new node"

// removed tells whether this node is a member no more.
func (m *member) removed() bool { return ledger.IsRemoved(m.ledger.View(), m.agent.identity.ID()) }

// seat makes this node a voter when it is a master, and none when it is not and the
// other voters have let it go. One that is no member leaves at once: as coordinator it
// could let nobody in, since members talk to members only.
func (m *member) seat(context.Context) ([]string, error) {
	if !m.founded() {
		return nil, nil // the founding masters vote before there is a role
	}
	_, state, err := m.view()
	if err != nil {
		return nil, err
	}
	wanted := slices.Contains(state.Voters(), m.self())
	if wanted == m.ledger.Status().Voter || !wanted && !m.removed() && m.ledger.VoteCounts() {
		return nil, nil
	}
	if err := m.ledger.Vote(wanted); err != nil {
		return nil, err
	}
	what := "this node votes on decisions"
	if !wanted {
		what = "this node votes no more"
	}
	m.agent.events.add("ledger", what, "")
	return nil, nil
}

// votersOf returns who votes.
func votersOf(state roles.State) ([]peer.ID, error) {
	var all []peer.ID
	for _, voter := range state.Voters() {
		id, err := peerOf(voter)
		if err != nil {
			return nil, err
		}
		all = append(all, id)
	}
	return all, nil
}

// replace does, on the coordinator, what a change of members needs beside
// decisions: the voters follow the masters, and the cluster forgets who left it.
// Everything that it does it names by an ID that is never given twice, and it
// says so by compare-and-set, so that one that was frozen in between does no harm
// (history S14).
func (m *member) replace(ctx context.Context) ([]string, error) {
	if !m.ledger.IsCoordinator() {
		return nil, nil
	}
	view, state, err := m.view()
	if err != nil {
		return nil, err
	}
	voters, err := votersOf(state)
	if err != nil {
		return nil, err
	}
	late, err := m.ledger.KeepVoters(ctx, voters)
	if err != nil {
		return nil, err
	}
	var waiting []string
	for id, why := range late {
		waiting = append(waiting, m.agent.nameOf(id)+": "+why)
	}
	slices.Sort(waiting)
	if r := state.Replacement; r != nil && r.Old == m.self() && r.Step != roles.StepJoin {
		if err := m.ledger.TransferLeadership(ctx); err != nil {
			return append(waiting, "this node leaves its place, and no other master takes over the coordination yet: "+err.Error()), nil
		}
		return waiting, nil
	}
	more, err := m.changeCluster(ctx, view, state)
	return append(waiting, more...), err
}

// changeCluster takes the old node of a replacement out of the cluster, and forgets
// what nodes were that begin another tenure.
func (m *member) changeCluster(ctx context.Context, view ledger.View, state roles.State) ([]string, error) {
	if !state.Policy.Kubernetes {
		return nil, m.clearAll(ctx, view, state, false)
	}
	there := state.Epoch != nil && state.Epoch.CAHash != ""
	if r := state.Replacement; r != nil && r.Step == roles.StepRemove && there {
		if !m.agent.distro.State().Serving {
			if r.Survivor != "" && r.Survivor != m.self() {
				return []string{fmt.Sprintf("%s has to go on alone with etcd's data before %s is taken out of the cluster", m.name(r.Survivor), m.name(r.Old))}, nil
			}
			return []string{"this node coordinates, and its own API server has to answer before it can take " + m.name(r.Old) + " out of the cluster"}, nil
		}
		if h := m.health(state)[r.Old]; h.Alive && !h.Stopped {
			return []string{m.name(r.Old) + " has to stop its Kubernetes before it is taken out of the cluster"}, nil
		}
		return nil, m.takeOut(ctx, view, state, *r)
	}
	if there && !m.agent.distro.State().Serving {
		return nil, nil
	}
	err := m.clearAll(ctx, view, state, there)
	if there {
		err = errors.Join(err, m.forgetOutcasts(ctx, view, state))
	}
	return nil, err
}

// forgetOutcasts takes what nodes were that were revoked out of the cluster. A name
// that Kubernetes knows another node by since is that one's.
func (m *member) forgetOutcasts(ctx context.Context, view ledger.View, state roles.State) error {
	var all error
	for _, o := range outcasts(view) {
		if o.record.Cleared || o.record.Hostname == "" {
			continue
		}
		if !m.registered(state, o.record.Hostname) {
			if err := m.agent.cluster.Forget(ctx, o.record.Hostname, m.unchanged(view, ledger.RevokedKey(o.id))); err != nil {
				all = errors.Join(all, err)
				continue
			}
			m.agent.events.add("revoked", o.record.Hostname+" is out of the cluster", o.record.Reason)
		}
		key := ledger.RevokedKey(o.id)
		record, _, err := ledger.Read[ledger.Revoked](view, key)
		if err != nil {
			return err
		}
		record.Value.Cleared = true
		value, err := record.Encode()
		if err != nil {
			return err
		}
		if _, err := m.ledger.Propose(ctx, ledger.Txn{}.If(key, record.Index).Set(key, value)); err != nil && !errors.Is(err, ledger.ErrConflict) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// unchanged asks a majority whether a record is still the one in view: an executor
// that was frozen since then acts for nobody (history S14).
func (m *member) unchanged(view ledger.View, key string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := m.ledger.Sync(ctx); err != nil {
			return err
		}
		if now := m.ledger.View().IndexOf(key); now != view.IndexOf(key) {
			return fmt.Errorf("%w: %s was decided anew meanwhile", ledger.ErrConflict, key)
		}
		return nil
	}
}

// registered tells whether a member of that name is a Node that is Ready.
func (m *member) registered(state roles.State, name string) bool {
	for id, held := range state.Names {
		node, err := peerOf(id)
		if err != nil || held != name {
			continue
		}
		f, _ := m.agent.factsOf(node)
		return f.Kubernetes.NodeReady
	}
	return false
}

func (m *member) name(id roles.NodeID) string {
	node, err := peerOf(id)
	if err != nil {
		return string(id)
	}
	return m.agent.nameOf(node)
}

// takeOut removes the etcd member first, by its ID, and then the Node. A member that
// the old node came to be after the replacement was planned is named in it first, so
// that what is removed is always what was committed.
func (m *member) takeOut(ctx context.Context, view ledger.View, state roles.State, r roles.Replacement) error {
	a := m.agent
	fail := func(err error) error { return fmt.Errorf("take %s out of the cluster: %w", m.name(r.Old), err) }
	if r.Member != "" {
		id, err := strconv.ParseUint(r.Member, 16, 64)
		if err != nil {
			return fail(fmt.Errorf("etcd member %q: %w", r.Member, err))
		}
		if err := a.cluster.Remove(ctx, id); err != nil {
			return fail(err)
		}
	}
	if embeddedEtcd(state) {
		left, err := m.membersOf(ctx, state, r.Old)
		if err != nil {
			return fail(err)
		}
		if len(left) > 0 {
			return m.carryOn(ctx, view, roles.NameMember{Old: r.Old, Member: left[0].Hex()})
		}
	}
	if name := state.Names[r.Old]; name != "" {
		if err := a.cluster.Forget(ctx, name, m.unchanged(view, ledger.KeyReplacement)); err != nil {
			return fail(err)
		}
	}
	if err := m.carryOn(ctx, view, roles.AdvanceReplacement{Old: r.Old}); err != nil {
		return err
	}
	a.log.Info("taken out of the cluster", LogPeer, string(r.Old), "member", r.Member)
	a.events.add("replacement", m.name(r.Old)+" is out of the cluster", r.Reason)
	return nil
}

// carryOn commits the next decision of the replacement, unless it has changed
// meanwhile.
func (m *member) carryOn(ctx context.Context, view ledger.View, d roles.Decision) error {
	txn, err := transaction(view, []roles.Decision{d})
	if err != nil {
		return err
	}
	if _, err := m.ledger.Propose(ctx, txn); err != nil && !errors.Is(err, ledger.ErrConflict) {
		return fmt.Errorf("commit %q: %w", d, err)
	}
	return nil
}

// membersOf lists what of a node is in the etcd of this node's server.
func (m *member) membersOf(ctx context.Context, state roles.State, id roles.NodeID) ([]k3s.EtcdMember, error) {
	node, err := peerOf(id)
	if err != nil {
		return nil, err
	}
	f, _ := m.agent.factsOf(node)
	hosts := m.etcdHosts(state, id, f)
	members, err := m.agent.cluster.Members(ctx)
	return slices.DeleteFunc(members, func(member k3s.EtcdMember) bool {
		return !slices.ContainsFunc(hosts, func(host string) bool { return sameHost(host, member.Host) })
	}), err
}

// clearAll lets nodes begin the tenure that they have wiped for, once the cluster
// holds nothing of what they were: a Node, a node password, an etcd member.
func (m *member) clearAll(ctx context.Context, view ledger.View, state roles.State, there bool) error {
	var all error
	for id, tenure := range state.Tenures {
		if tenure.Cleared >= tenure.N || state.Roles[id] == roles.None {
			continue
		}
		if r := state.Replacement; r != nil && r.Old == id && r.Step != roles.StepJoin {
			continue
		}
		node, err := peerOf(id)
		if err != nil {
			return err
		}
		f, heard := m.agent.factsOf(node)
		if !heard || f.Kubernetes.Tenure != tenure.N {
			continue // it has not wiped yet
		}
		if there {
			if err := m.clearCluster(ctx, view, state, node); err != nil {
				all = errors.Join(all, fmt.Errorf("forget what %s was: %w", m.name(id), err))
				continue
			}
		}
		role, _, err := ledger.Read[ledger.Role](view, ledger.RoleKey(node))
		if err != nil {
			return err
		}
		role.Value.Cleared = tenure.N
		value, err := role.Encode()
		if err != nil {
			return err
		}
		key := ledger.RoleKey(node)
		if _, err := m.ledger.Propose(ctx, ledger.Txn{}.If(key, view.IndexOf(key)).Set(key, value)); err != nil && !errors.Is(err, ledger.ErrConflict) {
			all = errors.Join(all, err)
		}
	}
	return all
}

func (m *member) clearCluster(ctx context.Context, view ledger.View, state roles.State, node peer.ID) error {
	if embeddedEtcd(state) {
		members, err := m.membersOf(ctx, state, nodeID(node))
		if err != nil {
			return err
		}
		for _, member := range members {
			if err := m.agent.cluster.Remove(ctx, member.ID); err != nil {
				return err
			}
		}
	}
	return m.agent.cluster.Forget(ctx, state.Names[nodeID(node)], m.unchanged(view, ledger.RoleKey(node)))
}

// noteTenure publishes for which tenure this node has nothing left of before.
func (m *member) noteTenure(state roles.State) error {
	noted, err := dataOf(m.agent.path(epochFile))
	if err != nil {
		return err
	}
	tenure := state.Tenures[m.self()].N
	if noted.Epoch == 0 || noted.Tenure == tenure {
		noted.Tenure = tenure
	}
	a := m.agent
	a.mu.Lock()
	changed := a.tenure != noted.Tenure
	a.tenure = noted.Tenure
	a.mu.Unlock()
	if changed {
		a.changed.Notify()
	}
	return nil
}

// stopIfReplaced ends Kubernetes on a node that leaves its place: what is removed
// from etcd while it runs would join again by itself.
func (m *member) stopIfReplaced(ctx context.Context, state roles.State) error {
	r := state.Replacement
	if r == nil || r.Old != m.self() || r.Step == roles.StepJoin || !m.agent.distro.State().Running {
		return nil
	}
	m.agent.log.Warn("this node leaves its place, K3s is stopped", LogReason, r.Reason)
	return m.agent.distro.Stop(ctx)
}
