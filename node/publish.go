package node

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/roles"
	"github.com/muster-edge/muster/vpn"
)

// publishFacts says what this node is and how it does, when that changed.
func (a *Agent) publishFacts(context.Context) ([]string, error) {
	f, err := a.observe()
	if err != nil {
		return nil, err
	}
	body, err := f.encode()
	if err != nil {
		return nil, fmt.Errorf("publish facts: %w", err)
	}
	a.mu.Lock()
	a.own = f
	a.mu.Unlock()
	if err := a.facts.Publish(body); err != nil {
		return nil, fmt.Errorf("publish facts: %w", err)
	}
	if a.twinPublishes() {
		return []string{"IdentityConflict: another live machine holds this node's key; end it, or wipe one of the two"}, nil
	}
	return nil, nil
}

// twinPublishes tells that another machine publishes facts under this node's key.
func (a *Agent) twinPublishes() bool { return slices.Contains(a.facts.Conflicts(), a.identity.ID()) }

// observe looks at this node.
func (a *Agent) observe() (Facts, error) {
	prefixes, err := a.localPrefixes()
	if err != nil {
		return Facts{}, fmt.Errorf("observe this node: %w", err)
	}
	candidates, err := vpn.LocalCandidates(vpn.DefaultPort)
	if err != nil {
		return Facts{}, fmt.Errorf("observe this node: %w", err)
	}
	candidates = slices.DeleteFunc(candidates, func(c netip.AddrPort) bool { return a.virtual(c.Addr()) })
	kubernetes := a.distro.State()
	phase := a.phase()
	f := Facts{
		Hostname: a.hostname, StaticRole: a.staticRole(), JoinOnly: a.opts.Config.P2P.JoinOnly, Policy: a.policy(),
		VPN:        VPNFacts{Candidates: candidates[:min(len(candidates), maxCandidates)]},
		Conflict:   a.twinPublishes(),
		Phase:      phase.Phase,
		Ready:      phase.Phase == PhaseRunning,
		Reason:     phase.Reason,
		Version:    Version,
		Kubernetes: KubernetesFacts{Version: kubernetes.Version, Serving: kubernetes.Serving, NodeReady: kubernetes.NodeReady, CAHash: kubernetes.CAHash, TokenEpoch: kubernetes.TokenEpoch},

		FeatureLevel: FeatureLevel,
	}
	f.Kubernetes.Stopped, f.Kubernetes.Volumes = !kubernetes.Running, k3s.HoldsVolumes()
	a.mu.Lock()
	f.Kubernetes.Etcd, f.Kubernetes.Tenure = a.etcd, a.tenure
	a.mu.Unlock()
	a.image.tell(&f)
	f.Ledger, f.Address = a.observeLedger()
	if a.opts.Config.P2P.VPN.Create {
		f.VPN.PublicKey = a.wgKey.PublicKey().String()
	}
	a.mu.Lock()
	if a.mesh != nil {
		seen := a.mesh.paths.Observed()
		f.VPN.Observed = seen[:min(len(seen), maxObserved)]
	}
	a.mu.Unlock()
	if underlay, err := a.underlayAddress(); err == nil {
		f.VPN.Underlay = underlay
	}
	f.VIP = a.carriesVIP()
	for _, p := range prefixes {
		f.LANs = append(f.LANs, p.Masked())
	}
	return f.bounded(), nil
}

// policy is what this node's own configuration wants the site to be. It counts
// when the site is founded; afterwards the ledger's counts.
func (a *Agent) policy() roles.Policy {
	c := a.opts.Config.P2P
	return roles.Policy{
		Auto: c.Auto.Enable, HA: c.Auto.HA.Enable, AdditionalMasters: c.Masters() - 1,
		MinimumNodes: c.MinimumNodes, DynamicRoles: c.DynamicRoles, ReplaceAfter: c.ReplaceAfter,
		ExternalDB: c.Auto.HA.ExternalDB.Reveal(), VIP: a.opts.Config.KubeVIP.Own(), Kubernetes: a.opts.Config.K3s.Enabled || a.opts.Config.K3sAgent.Enabled,
	}
}

func (a *Agent) staticRole() roles.Role { return roles.Role(a.opts.Config.P2P.Role) }

// factsOf returns what a node says of itself, this one included.
func (a *Agent) factsOf(id peer.ID) (Facts, bool) {
	if id == a.identity.ID() {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.own, a.own.Hostname != ""
	}
	f, ok := a.facts.Get(id)
	if !ok {
		return Facts{}, false
	}
	facts, err := decodeFacts(f)
	if err != nil {
		a.log.Debug("facts that do not decode", LogPeer, id.String(), LogError, err)
		return Facts{}, false
	}
	return facts, true
}

// localPrefixes are this node's addresses on its own links. A virtual address is
// not its own: it is somebody else's next.
func (a *Agent) localPrefixes() ([]netip.Prefix, error) {
	prefixes, err := vpn.LocalPrefixes()
	return slices.DeleteFunc(prefixes, func(p netip.Prefix) bool { return a.virtual(p.Addr()) }), err
}

// underlayAddress is this node's first address on its own links.
func (a *Agent) underlayAddress() (netip.Addr, error) {
	prefixes, err := a.localPrefixes()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, p := range prefixes {
		if p.Addr().Is4() {
			return p.Addr(), nil
		}
	}
	if len(prefixes) > 0 {
		return prefixes[0].Addr(), nil
	}
	return netip.Addr{}, fmt.Errorf("this node has no address on any link")
}
