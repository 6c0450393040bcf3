package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/muster-edge/muster/roles"
	"github.com/muster-edge/muster/vpn"
)

// probeFirst and probeMax bound the pause between two looks for peers without a
// handshake; it doubles while some do not answer, since they may be switched off
// for months.
const (
	probeFirst = 3 * time.Second
	probeMax   = time.Minute
)

// wireGuardKey is this node's key of the data plane.
type wireGuardKey = wgtypes.Key

func loadWireGuardKey(path string) (wireGuardKey, error) { return vpn.LoadKey(path) }

// mesh is this node's end of the VPN, once it has an address.
type mesh struct {
	vpn     *vpn.VPN
	paths   *vpn.Paths
	address netip.Addr
	peers   []vpn.Peer
	probed  time.Time
	pause   time.Duration
}

// connect keeps the VPN what facts (keys, endpoints) and decisions (addresses)
// say. A peer whose facts have not come yet is left out and added when they do.
func (m *member) connect(ctx context.Context) ([]string, error) {
	a := m.agent
	if !a.opts.Config.P2P.VPN.Create {
		return nil, nil
	}
	_, state, err := m.view()
	if err != nil {
		return nil, err
	}
	address, decided := state.Addresses[m.self()]
	if !decided {
		return nil, nil // the planner's to explain
	}
	// Somebody may have been thrown out while this node was away: it hears of that
	// first, on the mesh's control plane, which needs no VPN.
	if wait := m.askFirst(state); wait != "" {
		return []string{wait}, nil
	}
	if err := a.openMesh(); err != nil {
		return nil, err
	}
	local, err := a.localPrefixes()
	if err != nil {
		return nil, fmt.Errorf("read own addresses: %w", err)
	}
	config := vpn.Config{PrivateKey: a.wgKey, Address: netip.PrefixFrom(address, state.Policy.Range.Bits())}
	for _, member := range state.Members {
		if p, ok := m.vpnPeer(state, member.ID, local); ok && member.ID != m.self() && !member.Removed {
			config.Peers = append(config.Peers, p)
		}
	}
	a.mu.Lock()
	before := a.mesh.peers
	a.mu.Unlock()
	var claims []string
	config.Peers, claims = ownKeys(config.Peers, before, a.wgKey.PublicKey())
	if err := a.mesh.vpn.Apply(config); err != nil {
		return claims, err
	}
	a.mu.Lock()
	isNew := a.mesh.address != address
	a.mesh.address = address
	if !reflect.DeepEqual(a.mesh.peers, config.Peers) {
		a.mesh.peers, a.mesh.pause, a.mesh.probed = config.Peers, probeFirst, time.Time{}
		a.mesh.paths.Applied()
		a.changed.Notify()
	}
	a.mu.Unlock()
	if isNew {
		a.log.Info("mesh is up", LogAddress, config.Address, "device", a.mesh.vpn.Mode(), "peers", len(config.Peers))
		a.events.add("vpn", "mesh address "+address.String(), string(a.mesh.vpn.Mode()))
		a.changed.Notify()
	}
	return claims, nil
}

// probe looks for peers that have not shaken hands until all have; a mesh that
// is whole stays silent.
func (m *member) probe(ctx context.Context) ([]string, error) {
	a := m.agent
	a.mu.Lock()
	mesh := a.mesh
	due := mesh != nil && len(mesh.peers) > 0 && time.Since(mesh.probed) >= mesh.pause
	if due {
		mesh.probed = time.Now()
	}
	a.mu.Unlock()
	if !due {
		return nil, nil
	}
	waiting, err := mesh.vpn.Probe(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	mesh.pause = min(2*mesh.pause, probeMax)
	if waiting == 0 {
		mesh.pause = probeMax
	}
	return nil, err
}

func (m *member) vpnPeer(state roles.State, id roles.NodeID, local []netip.Prefix) (vpn.Peer, bool) {
	address, decided := state.Addresses[id]
	if !decided {
		return vpn.Peer{}, false
	}
	node, err := peerOf(id)
	if err != nil {
		return vpn.Peer{}, false
	}
	facts, known := m.agent.factsOf(node)
	if !known {
		return vpn.Peer{}, false
	}
	key, ok := facts.VPN.publicKey()
	if !ok {
		return vpn.Peer{}, false
	}
	candidates := vpn.Prefer(facts.VPN.Candidates, local)
	return vpn.Peer{
		ID: string(id), PublicKey: key, Address: address,
		Candidates: append(candidates, facts.VPN.Observed...), Own: facts.VPN.Candidates,
	}, true
}

// reached are the nodes that WireGuard has shaken hands with.
func (m *mesh) reached() map[peer.ID]bool {
	if m == nil {
		return nil
	}
	peers, err := m.vpn.Peers()
	if err != nil {
		return nil // the device is gone, and the vpn reconciler says so
	}
	all := map[peer.ID]bool{}
	for _, p := range peers {
		if id, err := peer.Decode(p.ID); err == nil && !p.LastHandshake.IsZero() {
			all[id] = true
		}
	}
	return all
}

func (a *Agent) openMesh() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mesh != nil {
		return nil
	}
	v, err := vpn.Open(vpn.Options{Log: a.log})
	if err != nil {
		return err
	}
	paths, err := a.openPaths(v)
	if err != nil {
		return errors.Join(err, v.Close())
	}
	a.mesh = &mesh{vpn: v, paths: paths}
	return nil
}
