package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// apiPort is where K3s servers listen.
const apiPort = "6443"

// kubernetes keeps K3s running in the role that the site decided.
func (m *member) kubernetes(ctx context.Context) ([]string, error) {
	a := m.agent
	view, state, err := m.view()
	if err != nil {
		return nil, err
	}
	role := state.Roles[m.self()]
	if !state.Policy.Kubernetes || role == roles.None || !m.connected(state.Addresses[m.self()]) {
		return nil, nil // others explain
	}
	if wait := m.askFirst(); wait != "" {
		return []string{wait}, nil
	}
	if ok, why := roles.MayStart(state, m.self()); !ok {
		return []string{why}, nil
	}
	spec, why, err := m.spec(view, state, role)
	if err != nil || why != "" {
		return nonEmpty(why), err
	}
	if err := a.distro.Apply(ctx, spec); err != nil {
		return nil, err
	}
	now := a.distro.State()
	if err := m.announce(ctx, view, state, now); err != nil {
		return nil, err
	}
	return nonEmpty(now.Waiting), nil
}

// askFirst lets a node that came back hear whether it is still what it was,
// before it starts what another cluster might trip over. With nobody there to
// ask it goes on after a bounded time.
func (m *member) askFirst() string {
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
	return fmt.Sprintf("a peer to confirm that this node is still what it was (%s more, then it goes on alone)", left.Round(time.Second))
}

// current tells whether somebody who decides or follows has confirmed this
// node's copy of the decisions since it started.
func (m *member) current() bool {
	s := m.ledger.Status()
	return s.Quorum && s.Behind == 0 && (s.Voter || s.Following != "")
}

// spec is what K3s is to be on this node, or why it cannot be said yet.
func (m *member) spec(view ledger.View, state roles.State, role roles.Role) (k3s.Spec, string, error) {
	self := m.self()
	settings := m.agent.opts.Config.K3s
	if role == roles.Worker {
		settings = m.agent.opts.Config.K3sAgent
	}
	s := k3s.Spec{
		Role: k3s.Server, NodeName: state.Names[self], CAHash: state.Epoch.CAHash,
		Args: settings.Args, Env: settings.Env, ReplaceArgs: settings.ReplaceArgs, ReplaceEnv: settings.ReplaceEnv,
	}
	var err error
	if s.NodeIP, err = m.nodeIP(state); err != nil {
		return s, "", err
	}
	if m.agent.opts.Config.P2P.VPN.Use && m.agent.opts.Config.P2P.VPN.Create {
		s.FlannelInterface = interfaceName
	}
	var known bool
	if s.AgentToken, known, err = m.secret(view, ledger.SecretAgentToken); err != nil || !known {
		return s, "the coordinator to seal the agent token to this node", err
	}
	join := m.liveServer(state)
	if role == roles.Worker {
		s.Role = k3s.Agent
		if join == "" {
			return s, "a master whose API server answers: " + m.masterList(state) + " should be", nil
		}
		s.Join = join
		return s, "", nil
	}
	if s.ServerToken, known, err = m.secret(view, ledger.SecretServerToken); err != nil || !known {
		return s, "the coordinator to seal the server token to this node", err
	}
	s.EmbeddedRegistry = m.agent.opts.Config.K3s.EmbeddedRegistry
	s.DatastoreEndpoint = m.agent.opts.Config.P2P.Auto.HA.ExternalDB.Reveal()
	initialising := state.Epoch.Init == self && state.Epoch.CAHash == ""
	switch {
	case s.DatastoreEndpoint != "":
		// The datastore is what the servers share; none of them joins another.
	case role == roles.Master:
	case initialising:
		s.ClusterInit = true
	case join != "":
		s.Join = join
	case state.Epoch.Init == self || m.agent.distro.State().Running || m.joinedBefore(state):
		// Nobody to name: after a power failure of the whole site the servers
		// find each other by what etcd has on disk.
	default:
		return s, "a master whose API server answers, to join its cluster: " + m.masterList(state) + " should be", nil
	}
	return s, "", nil
}

// joinedBefore tells whether this node's K3s has been part of the cluster: its
// own CA is the cluster's.
func (m *member) joinedBefore(state roles.State) bool {
	return state.Epoch.CAHash != "" && k3s.KnownCAHash() == state.Epoch.CAHash
}

// nodeIP is the address that Kubernetes knows this node by.
func (m *member) nodeIP(state roles.State) (netip.Addr, error) {
	if m.agent.opts.Config.P2P.VPN.Use && m.agent.opts.Config.P2P.VPN.Create {
		return state.Addresses[m.self()], nil
	}
	return underlayAddress()
}

// liveServer returns the URL of another master that serves, the init master
// first and then by ID, so that all nodes lean on the same one.
func (m *member) liveServer(state roles.State) string {
	health := m.health(state)
	var candidates []roles.NodeID
	for id, role := range state.Roles {
		if role.IsMaster() && id != m.self() && health[id].Alive {
			candidates = append(candidates, id)
		}
	}
	slices.SortFunc(candidates, func(a, b roles.NodeID) int {
		switch {
		case a == state.Epoch.Init:
			return -1
		case b == state.Epoch.Init:
			return 1
		}
		return strings.Compare(string(a), string(b))
	})
	for _, id := range candidates {
		node, err := peerOf(id)
		if err != nil {
			continue
		}
		f, ok := m.agent.factsOf(node)
		if !ok || !f.Kubernetes.Serving || f.Kubernetes.CAHash != state.Epoch.CAHash {
			continue
		}
		address := state.Addresses[id]
		if !m.agent.opts.Config.P2P.VPN.Use || !m.agent.opts.Config.P2P.VPN.Create {
			address = f.VPN.Underlay
		}
		if address.IsValid() {
			return "https://" + net.JoinHostPort(address.String(), apiPort)
		}
	}
	return ""
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
	if state.Epoch.Init != m.self() || now.CAHash == "" || !now.Serving {
		return nil
	}
	if state.Epoch.CAHash == "" {
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
	}
	return m.shareKubeconfig(ctx, view, state)
}

func (m *member) shareKubeconfig(ctx context.Context, view ledger.View, state roles.State) error {
	if _, shared := view.Get(ledger.SecretKey(ledger.SecretKubeconfig)); shared {
		return nil
	}
	text, err := k3s.AdminKubeconfig()
	if err != nil {
		return err
	}
	masters, err := mastersOf(state)
	if err != nil {
		return err
	}
	return m.proposeSealed(ctx, view, ledger.SecretKubeconfig, text, masters)
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
