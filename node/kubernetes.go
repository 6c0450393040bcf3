package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/node/vip"
	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// kubernetes keeps K3s running in the role that the site decided.
func (m *member) kubernetes(ctx context.Context) ([]string, error) {
	asked := false
	waiting, err := m.runKubernetes(ctx, &asked)
	m.attempted(asked, waiting, err)
	return waiting, err
}

// runKubernetes sets asked once K3s is to be started.
func (m *member) runKubernetes(ctx context.Context, asked *bool) ([]string, error) {
	a := m.agent
	view, state, err := m.view()
	if err != nil {
		return nil, err
	}
	if ledger.IsRevoked(view, a.identity.ID()) {
		if a.distro.State().Running {
			return nil, a.distro.Stop(ctx) // nobody plans with what runs here
		}
		return nil, nil
	}
	role := state.Roles[m.self()]
	if m.removed() {
		return []string{removedSentence}, m.wipeSuperseded(ctx, view, state)
	}
	if !state.Policy.Kubernetes || role == roles.None || !m.connected(state.Addresses[m.self()]) {
		return nil, nil // others explain
	}
	if wait := m.yields(); wait != "" {
		return []string{wait}, nil
	}
	if wait := m.askFirst(state); wait != "" {
		return []string{wait}, nil
	}
	if err := m.wipeSuperseded(ctx, view, state); err != nil {
		return nil, err
	}
	if err := m.noteTenure(state); err != nil {
		return nil, err
	}
	if ok, why := roles.MayStart(state, m.self()); !ok {
		return []string{aboutThisNode(why)}, m.stopIfReplaced(ctx, state)
	}
	spec, why, err := m.spec(view, state)
	if err != nil || why != "" {
		return nonEmpty(why), err
	}
	if err := m.enterGeneration(ctx, view, state, spec); err != nil {
		return nil, err
	}
	if err := m.goOnAlone(ctx, state, spec); err != nil {
		return nil, err
	}
	server := role.IsMaster()
	var later string
	if server {
		spec.TokenEpoch = ledger.EnrolmentEpoch(view)
		spec.TakeToken, later = m.takeToken(state)
	}
	if err := keepNote(a.path(epochFile), epochNote{
		Epoch: state.Epoch.N, Tenure: state.Tenures[m.self()].N, Generation: m.ledger.Site().Generation, Server: &server,
	}); err != nil {
		return nil, err
	}
	if err := a.startKubernetes(ctx, role, func() error { *asked = true; return a.distro.Apply(ctx, spec) }); err != nil {
		return nil, err
	}
	if spec.TakeToken {
		a.events.add("kubernetes", "K3s restarted", "the agent token was replaced")
	}
	now := a.distro.State()
	if err := m.announce(ctx, view, state, now); err != nil {
		return nil, err
	}
	return append(nonEmpty(now.Waiting), nonEmpty(later)...), nil
}

// wipeSuperseded takes this node out of a cluster that the site has given up, and
// reports what became of the volumes.
func (m *member) wipeSuperseded(ctx context.Context, view ledger.View, state roles.State) error {
	a := m.agent
	why, kept, err := leaveSuperseded(ctx, a.path(epochFile), state, m.ledger.Site().Generation, ledger.Recoveries(view), m.self(), a.distro)
	if err != nil || why == "" {
		return err
	}
	a.log.Warn("Kubernetes data wiped", LogReason, why, "volumes", kept)
	a.events.add("kubernetes", "data wiped", why)
	return nil
}

// enterGeneration does, once, what a recovery asks of the K3s that is kept. The
// server becomes the only member of its etcd, as the votes of the masters that were
// given up are missing there as they are in Raft: K3s does it (--cluster-reset), and
// not while it runs. An agent starts again, so that it reads everything anew; pods
// run on.
func (m *member) enterGeneration(ctx context.Context, view ledger.View, state roles.State, spec k3s.Spec) error {
	a := m.agent
	note, err := readNote(a.path(epochFile))
	if err != nil {
		return err
	}
	judged, _ := fateOf(note, ledger.Recoveries(view), string(m.self()))
	switch {
	case !embeddedEtcd(state) || spec.CAHash == "":
	case judged == fateReset:
		spec.Join = ""
		if err := a.distro.ResetCluster(ctx, spec); err != nil {
			return err
		}
		a.log.Warn("this node's etcd goes on alone", LogReason, "the site was recovered, and the other masters were given up")
		a.events.add("kubernetes", "etcd reset to this node alone", "the site was recovered")
	case judged == fateRestart:
		if err := a.distro.Stop(ctx); err != nil {
			return err
		}
		a.events.add("kubernetes", "K3s started again", "the site was recovered, and its datastore may lack what this node has seen")
	}
	return nil
}

// goOnAlone makes this node the only member of its etcd, once, when the site has
// decided that the other one is lost and the two were all of it (history S16). It
// does nothing while its own etcd says anything else.
func (m *member) goOnAlone(ctx context.Context, state roles.State, spec k3s.Spec) error {
	a := m.agent
	r := state.Replacement
	if r == nil || r.Survivor != m.self() || r.Step != roles.StepRemove || !embeddedEtcd(state) || spec.CAHash == "" || m.alone == r.Member {
		return nil
	}
	a.mu.Lock()
	seen := slices.Clone(a.etcd)
	a.mu.Unlock()
	if !allOfEtcd(seen, r.Member) {
		return nil
	}
	spec.Join = ""
	if err := a.distro.ResetCluster(ctx, spec); err != nil {
		return err
	}
	m.alone = r.Member
	if err := os.Remove(a.path(etcdFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget the former members of etcd: %w", err)
	}
	a.log.Warn("this node's etcd goes on alone", LogReason, r.Reason, LogPeer, string(r.Old))
	a.events.add("kubernetes", "etcd reset to this node alone", m.name(r.Old)+" was the only other member")
	return nil
}

// allOfEtcd tells whether a lost member and one other were all that voted in an etcd
// that has no leader.
func allOfEtcd(seen []EtcdFacts, lost string) bool {
	there := func(e EtcdFacts) bool { return e.Reachable }
	return voters(seen) == 2 && !slices.ContainsFunc(seen, there) &&
		slices.ContainsFunc(seen, func(e EtcdFacts) bool { return e.ID == lost && !e.Learner })
}

// embeddedEtcd tells whether the masters keep Kubernetes's data among
// themselves.
func embeddedEtcd(state roles.State) bool {
	return state.Policy.Kubernetes && state.Policy.HA && state.Policy.ExternalDB == ""
}

// askFirst lets a node that came back hear whether it is still what it was,
// before it starts what another cluster might trip over. With nobody there to
// ask it goes on after a bounded time.
func (m *member) askFirst(state roles.State) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.confirmed || m.current() {
		m.confirmed = true
		return ""
	}
	left := askFirst - time.Since(m.begun)
	if left <= 0 {
		m.confirmed = true
		m.agent.log.Warn("nobody answered whether this node is still what it was, going on", "waited", askFirst)
		return ""
	}
	time.AfterFunc(left, m.agent.changed.Notify)
	return fmt.Sprintf("waiting for one of the masters %s to confirm that this node is still what it was (%s more, then it goes on alone)", m.masterList(state), left.Round(time.Second))
}

// current tells whether somebody who decides or follows has confirmed this
// node's copy of the decisions since it started.
func (m *member) current() bool { return m.ledger.IsCoordinator() || confirms(m.ledger.Status()) }

// confirms tells whether another node has said that this copy lacks nothing. A
// voter that merely hears its coordinator has not caught up yet, and may find
// that it was replaced.
func confirms(s ledger.Status) bool { return s.Quorum && s.Behind == 0 && s.Following != "" }

// spec is what K3s is to be on this node, or why it cannot be said yet.
func (m *member) spec(view ledger.View, state roles.State) (k3s.Spec, string, error) {
	a := m.agent
	s := situation{
		self: m.self(), state: state, config: a.opts.Config,
		live:    liveServer(state, m.self(), onMesh(a.opts.Config), m.liveFacts(state)),
		running: a.distro.State().Running, knownCA: k3s.KnownCAHash(),
		masters: m.masterList(state), coordinator: m.coordinatorName(),
	}
	if v := a.opts.Config.KubeVIP; v.Enable {
		s.vipInterface = v.Interface
		if link, err := vip.Link(v.Interface, v.EIP); err == nil {
			s.vipInterface = link
		}
	}
	var err error
	if s.nodeIP, err = m.nodeIP(state); err != nil {
		return k3s.Spec{}, "", err
	}
	if s.agentToken, err = m.secret(view, ledger.SecretAgentToken); err != nil {
		return k3s.Spec{}, "", err
	}
	// A worker never holds the server token: it could make itself a master.
	if state.Roles[m.self()].IsMaster() {
		if s.serverToken, err = m.secret(view, ledger.SecretServerToken); err != nil {
			return k3s.Spec{}, "", err
		}
	}
	spec, why := s.spec()
	return spec, why, nil
}

// liveFacts returns what nodes say of themselves that gossip sees alive.
func (m *member) liveFacts(state roles.State) func(roles.NodeID) (Facts, bool) {
	health := m.health(state)
	return func(id roles.NodeID) (Facts, bool) {
		node, err := peerOf(id)
		if err != nil || !health[id].Alive {
			return Facts{}, false
		}
		return m.agent.factsOf(node)
	}
}

// coordinatorName names the coordinator in a sentence.
func (m *member) coordinatorName() string {
	if id, known := m.ledger.Coordinator(); known {
		return m.agent.nameOf(id)
	}
	return "(none is elected)"
}

// nodeIP is the address that Kubernetes knows this node by.
func (m *member) nodeIP(state roles.State) (netip.Addr, error) {
	if onMesh(m.agent.opts.Config) {
		return state.Addresses[m.self()], nil
	}
	return m.agent.underlayAddress()
}

func (m *member) masterList(state roles.State) string {
	masters, err := mastersOf(state)
	if err != nil || len(masters) == 0 {
		return "none is known"
	}
	return m.nodeList(masters)
}

// announce tells the site what came to be here: the CA of the cluster that this
// node initialised, and the admin kubeconfig, sealed to the masters.
func (m *member) announce(ctx context.Context, view ledger.View, state roles.State, now k3s.State) error {
	init := state.Epoch.Init == m.self()
	switch {
	case now.CAHash == "" || !now.Serving || !state.Roles[m.self()].IsMaster():
		return nil
	case state.Epoch.CAHash == "" && !init:
		return nil
	case state.Epoch.CAHash == "":
		epoch, _, err := ledger.Read[ledger.Epoch](view, ledger.KeyEpoch)
		if err != nil {
			return err
		}
		epoch.Value.CAHash = now.CAHash
		value, err := epoch.Encode()
		if err != nil {
			return err
		}
		_, err = m.ledger.Propose(ctx, ledger.Txn{}.If(ledger.KeyEpoch, view.IndexOf(ledger.KeyEpoch)).Set(ledger.KeyEpoch, value))
		if errors.Is(err, ledger.ErrConflict) {
			return nil // superseded, or done: the next look tells which
		}
		if err != nil {
			return fmt.Errorf("commit the cluster's CA: %w", err)
		}
		m.agent.events.add("kubernetes", "cluster initialised", fmt.Sprintf("epoch %d, CA %.12s", state.Epoch.N, now.CAHash))
		return nil
	case !init && !m.ledger.IsCoordinator():
		// The init master may be a master no more: then whoever coordinates shares.
		return nil
	case now.CAHash != state.Epoch.CAHash:
		return nil
	}
	return m.shareKubeconfig(ctx, view, state)
}

func (m *member) shareKubeconfig(ctx context.Context, view ledger.View, state roles.State) error {
	masters, err := mastersOf(state)
	if err != nil {
		return err
	}
	shared, err := ledger.ReadSecret(view, ledger.SecretKubeconfig)
	if err != nil || len(shared.Missing(masters)) == 0 {
		return err
	}
	text, err := k3s.AdminKubeconfig()
	if err != nil {
		return err
	}
	return m.replaceSecret(ctx, shared, text, masters)
}

// kubernetesReady is this node's own verdict on Kubernetes in its role.
func (a *Agent) kubernetesReady(role roles.Role) bool {
	s := a.distro.State()
	return s.NodeReady && (s.Serving || !role.IsMaster())
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}
