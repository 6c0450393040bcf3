package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

const (
	// askFirst bounds how long a node that comes back waits for anybody to tell
	// it whether it is still what it was (DESIGN §6, history S12).
	askFirst = 15 * time.Second
	// leaveTimeout bounds the farewell of a membership.
	leaveTimeout = 2 * time.Second
)

// member is this node's life in a site.
type member struct {
	agent  *Agent
	ledger *ledger.Ledger
	// begun is when this node joined or came back, on the monotonic clock.
	begun time.Time

	mu           sync.Mutex
	membership   *p2p.Membership
	inOffice     time.Time
	confirmed    bool
	waiting      []roles.Waiting
	tried        *attempt                   // nil before the first look at K3s
	etcdDead     map[roles.NodeID]time.Time // since when etcd on all other live masters has called it dead
	lookedAtEtcd time.Time

	vip       virtualAddress // the vip reconciler's own
	tokenKept bool           // on disk, in this life; the reconciler token's own
	alone     string         // the etcd member that this node's etcd was made to go on without; the kubernetes reconciler's own
	unvouched error          // why a higher generation in sight is not believed

	successions chan succession
	over        chan struct{} // closed when no succession is taken any more
}

// beMember works in the site until ctx ends, or until the ledger was handed to a
// succession: then what is on the disk is to be opened anew.
func (a *Agent) beMember(ctx context.Context, l *ledger.Ledger) (err error) {
	m := &member{agent: a, ledger: l, begun: time.Now(), successions: make(chan succession), over: make(chan struct{})}
	a.mu.Lock()
	a.ledger, a.member = l, m
	a.mu.Unlock()
	defer func() { err = errors.Join(err, l.Close()) }()
	a.enter(PhaseJoining, "")
	if damage, was := l.Damage(); was {
		a.events.add("damaged", damage.File+" is set aside and fetched again", damage.Reason)
	}
	if err := a.keepNetwork(); err != nil {
		a.log.Error("a change of network_id would go unnoticed", LogError, err)
	}
	// A founder that was away may still ask how the founding ended.
	var damage *ledger.CorruptError
	switch err := a.setFounding(ledger.FoundingConfig{Alive: m.alive}); {
	case errors.As(err, &damage): // a member takes part in no other founding
		a.noteDamage(damage, "a founder of this site that was away cannot ask this node how the founding ended")
	case err != nil:
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	var reconcilers sync.WaitGroup
	defer reconcilers.Wait()
	defer cancel()
	a.forward(ctx, l.Changed)
	for _, r := range []reconciler{
		{name: "membership", every: time.Minute, run: m.gossip},
		{name: "token", every: time.Minute, run: m.rotation},
		{name: "expel", every: time.Minute, run: m.expel},
		{name: "generation", every: 10 * time.Second, run: m.giveWay},
		{name: "conflict", every: time.Minute, run: a.watchConflicts},
		{name: "enrolment", every: 10 * time.Second, run: m.enrolment},
		{name: "coordinator", every: 5 * time.Second, run: m.coordinate},
		{name: "office", every: 5 * time.Second, run: m.leaveOffice},
		{name: "feature", every: time.Minute, run: m.feature},
		{name: "secrets", every: time.Minute, run: m.secrets},
		{name: "seat", every: 10 * time.Second, run: m.seat},
		{name: "etcd", every: 10 * time.Second, run: m.watchEtcd},
		{name: "replacement", every: 3 * time.Second, run: m.replace},
		{name: "vpn", every: time.Minute, run: m.connect},
		{name: "paths", every: probeFirst, run: m.probe},
		{name: "dns", every: time.Minute, run: m.names},
		{name: "vip", every: roles.VIPRenew, run: m.keepVIP},
		{name: "kubernetes", every: 10 * time.Second, run: m.kubernetes},
		{name: "phase", every: 20 * time.Second, run: m.phase},
	} {
		a.loop.start(ctx, &reconcilers, r)
	}
	defer close(m.over)
	select {
	case <-ctx.Done():
		return nil
	case next := <-m.successions:
		cancel()
		reconcilers.Wait()
		err := l.Close()
		if err == nil {
			err = next.do(a.ledgerConfig())
		}
		if err != nil {
			a.log.Error("the ledger stays as it was", LogError, err)
		}
		next.done <- err
		return nil
	}
}

// alive are the nodes that gossip sees.
func (m *member) alive() []peer.ID {
	m.agent.mu.Lock()
	membership := m.agent.membership
	m.agent.mu.Unlock()
	var all []peer.ID
	if membership == nil {
		return all
	}
	for _, s := range membership.Members() {
		if s.Status == p2p.MemberAlive {
			all = append(all, s.ID)
		}
	}
	return all
}

// founded tells whether the site exists: its record is the first decision.
func (m *member) founded() bool {
	_, ok := m.ledger.View().Get(ledger.KeyGenesis)
	return ok
}

// gossip moves this node from the founding gossip to the site's, once the site
// exists, and tells the ledger whom the site's has lost.
func (m *member) gossip(ctx context.Context) ([]string, error) {
	a := m.agent
	if !m.founded() {
		return m.whyNotFounded(), nil
	}
	site := m.ledger.Site()
	label := fmt.Sprintf("site-%s-%s", site.ID, ledger.SpellGeneration(site.Generation))
	a.host.SetGreeting(p2p.Greeting{Site: site.ID, Generation: site.Generation})
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.membership != nil {
		for _, s := range m.membership.Members() {
			if s.Status == p2p.MemberDead {
				m.ledger.Lost(s.ID, s.Since)
			}
		}
		return nil, nil
	}
	membership, err := p2p.JoinMembership(p2p.MembershipConfig{
		Host: a.host, Label: label, Access: p2p.AccessMember, Facts: a.facts, Candidates: m.members, Log: a.log,
	})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	before := a.membership
	a.membership = membership
	a.mu.Unlock()
	m.membership = membership
	a.forward(ctx, membership.Changed)
	a.facts.Expect(func(id peer.ID) bool { return ledger.IsMember(m.ledger.View(), id) })
	if before != nil {
		leave, cancel := context.WithTimeout(ctx, leaveTimeout)
		defer cancel()
		if err := errors.Join(before.Leave(leave), before.Close()); err != nil {
			a.log.Debug("leave the founding gossip", LogError, err)
		}
	}
	return nil, nil
}

func (m *member) whyNotFounded() []string {
	s := m.ledger.Status()
	if s.Voter {
		return []string{fmt.Sprintf("waiting for the site's first decision, for which a majority of the masters %s must be up", m.nodeList(s.Voters))}
	}
	return []string{fmt.Sprintf("waiting for the site's decisions, from one of the masters %s", m.nodeList(s.Voters))}
}

// members are the other nodes of the site, from the decisions on disk.
func (m *member) members() []peer.ID {
	return slices.DeleteFunc(membersOf(m.ledger.View()), func(id peer.ID) bool { return id == m.agent.identity.ID() })
}

// membersOf are the nodes of a site.
func membersOf(view ledger.View) []peer.ID {
	var all []peer.ID
	for id := range ledger.ReadAll[ledger.Member](view, ledger.PrefixMember) {
		all = append(all, id)
	}
	// A founder may not have entered itself yet.
	if genesis, ok := ledger.ReadGenesis(view); ok {
		for _, text := range genesis.Founders {
			if id, err := peer.Decode(text); err == nil && !slices.Contains(all, id) {
				all = append(all, id)
			}
		}
	}
	return slices.DeleteFunc(all, func(id peer.ID) bool { return ledger.IsRemoved(view, id) || ledger.IsRevoked(view, id) })
}

// enrolment keeps this node's own record in the ledger what it says of itself.
func (m *member) enrolment(ctx context.Context) ([]string, error) {
	if !m.founded() || m.removed() {
		return nil, nil
	}
	a := m.agent
	self := a.identity.ID()
	own, enrolled, err := ledger.Read[ledger.Member](m.ledger.View(), ledger.MemberKey(self))
	if err != nil {
		return nil, err
	}
	if enrolled && own.Value.Hostname == a.hostname && own.Value.StaticRole == string(a.staticRole()) {
		return nil, nil
	}
	if err := m.ledger.Enrol(ctx, a.enrolRequest()); err != nil {
		if enrolled {
			// A member that merely changed its name works on without.
			a.log.Debug("renew own record", LogError, err)
			return nil, nil
		}
		return []string{"waiting to be entered as a member: " + err.Error()}, nil
	}
	return nil, nil
}

// view returns the decisions and their meaning.
func (m *member) view() (ledger.View, roles.State, error) {
	v := m.ledger.View()
	s, err := siteState(v)
	return v, s, err
}

func (m *member) self() roles.NodeID { return roles.NodeID(m.agent.identity.ID().String()) }

// coordinate runs the planner while this node is the coordinator.
func (m *member) coordinate(ctx context.Context) ([]string, error) {
	if !m.ledger.IsCoordinator() {
		m.mu.Lock()
		m.inOffice, m.waiting = time.Time{}, nil
		m.mu.Unlock()
		return nil, nil
	}
	view, state, err := m.view()
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	if m.inOffice.IsZero() {
		m.inOffice = time.Now()
		m.agent.events.add("coordinator", "this node coordinates the site", "")
	}
	office := time.Since(m.inOffice)
	m.mu.Unlock()
	plan := roles.Next(roles.Input{State: state, Health: m.health(state), Now: office, Self: m.self()})
	m.mu.Lock()
	m.waiting = plan.Waiting
	m.mu.Unlock()
	if len(plan.Decisions) == 0 {
		return nil, nil
	}
	txn, err := transaction(view, plan.Decisions)
	if err != nil {
		return nil, err
	}
	_, err = m.ledger.Propose(ctx, txn)
	if errors.Is(err, ledger.ErrConflict) {
		// Somebody else was faster; the change that comes of it wakes us again.
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("decide %s: %w", spell(plan.Decisions), err)
	}
	for _, d := range plan.Decisions {
		m.agent.log.Info("decided", "decision", d.String())
		m.agent.events.add("decision", d.String(), "")
	}
	return nil, nil
}

func spell(decisions []roles.Decision) string {
	all := make([]string, len(decisions))
	for i, d := range decisions {
		all[i] = d.String()
	}
	return strings.Join(all, "; ")
}

// health is what this node sees of the members.
func (m *member) health(state roles.State) map[roles.NodeID]roles.Health {
	m.mu.Lock()
	membership := m.membership
	m.mu.Unlock()
	now := time.Now()
	seen := map[peer.ID]p2p.MemberState{}
	if membership != nil {
		for _, s := range membership.Members() {
			seen[s.ID] = s
		}
	}
	conflicts := m.agent.facts.Conflicts()
	all := map[roles.NodeID]roles.Health{}
	for _, node := range watched(state) {
		id, err := peerOf(node)
		if err != nil {
			continue
		}
		h := roles.Health{Conflict: slices.Contains(conflicts, id)}
		since := now.Sub(m.begun)
		if s, ok := seen[id]; ok {
			since = now.Sub(s.Since)
			// A suspect is alive until it had its chance to refute.
			h.Alive = s.Status == p2p.MemberAlive || s.Status == p2p.MemberSuspect
		}
		h.Alive = h.Alive || id == m.agent.identity.ID()
		if h.Alive {
			h.AliveFor = since
		} else {
			h.DeadFor = since
		}
		f, heard := m.agent.factsOf(id)
		h.Unheard = !heard
		if heard {
			h.Conflict = h.Conflict || h.Alive && f.Conflict // who is off is in conflict with nobody
			h.K8sReady = f.Kubernetes.NodeReady
			h.CAHash = f.Kubernetes.CAHash
			h.LANs = f.LANs
			h.Stopped, h.Volumes = f.Kubernetes.Stopped, f.Kubernetes.Volumes
		}
		all[node] = h
	}
	m.addEtcd(state, all, now)
	for _, id := range m.ledger.Status().Voters {
		if h, watched := all[nodeID(id)]; watched {
			h.Votes = true
			all[nodeID(id)] = h
		}
	}
	return all
}

// watched are the members, and the founding masters that have not come to enrol
// themselves: they vote all the same.
func watched(state roles.State) []roles.NodeID {
	var all []roles.NodeID
	for _, member := range state.Members {
		all = append(all, member.ID)
	}
	for _, id := range state.Masters {
		if !slices.Contains(all, id) {
			all = append(all, id)
		}
	}
	return all
}

// phase derives this node's phase from what it has and what it waits for.
func (m *member) phase(context.Context) ([]string, error) {
	a := m.agent
	view, state, err := m.view()
	if err != nil {
		return nil, err
	}
	self := m.self()
	address, role := state.Addresses[self], state.Roles[self]
	var waiting []string
	switch {
	case m.removed():
		a.enter(PhaseBlocked, removedSentence)
	case ledger.IsRevoked(view, a.identity.ID()):
		a.enter(PhaseBlocked, "this node was revoked")
	case !m.founded() || !address.IsValid() || role == roles.None:
		if m.founded() {
			for _, sentence := range roles.Explain(m.explainInput(state), self) {
				waiting = append(waiting, aboutThisNode(sentence))
			}
		}
		a.enter(PhaseJoining, "")
	case !m.connected(address):
		a.enter(PhaseConnecting, "")
	case !state.Policy.Kubernetes:
		a.enter(PhaseRunning, "")
	case a.kubernetesReady(role):
		a.enter(PhaseRunning, "")
	default:
		a.enter(PhaseInstalling, a.distro.State().Waiting)
	}
	return waiting, nil
}

func (m *member) explainInput(state roles.State) roles.Input {
	return roles.Input{State: state, Health: m.health(state), Now: time.Since(m.begun), Self: m.self()}
}

// connected tells whether the mesh carries this node's address.
func (m *member) connected(address netip.Addr) bool {
	if !m.agent.opts.Config.P2P.VPN.Create {
		return true
	}
	m.agent.mu.Lock()
	defer m.agent.mu.Unlock()
	return m.agent.mesh != nil && m.agent.mesh.address == address
}

// nodeList names nodes for a person, by hostname where it is known.
func (m *member) nodeList(nodes []peer.ID) string {
	names := make([]string, len(nodes))
	for i, id := range nodes {
		names[i] = m.agent.nameOf(id)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
