package node

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// siteState reads the decisions as the planner speaks of them.
func siteState(view ledger.View) (roles.State, error) {
	s := roles.State{
		Roles:     map[roles.NodeID]roles.Role{},
		Addresses: map[roles.NodeID]netip.Addr{},
		Names:     map[roles.NodeID]string{},
		Tenures:   map[roles.NodeID]roles.Tenure{},
		Requests:  map[roles.NodeID]roles.Request{},
	}
	genesis, found := ledger.ReadGenesis(view)
	if !found {
		return s, nil
	}
	for _, text := range genesis.Masters {
		if id, err := peer.Decode(text); err != nil || !ledger.IsRevoked(view, id) && !ledger.IsRemoved(view, id) {
			s.Masters = append(s.Masters, roles.NodeID(text))
		}
	}
	policy := policyRecord(view, genesis)
	var err error
	if s.Policy, err = roles.ParsePolicy(policy); err != nil {
		return s, fmt.Errorf("read the site's policy: %w", err)
	}
	if s.Policy.Range, err = netip.ParsePrefix(genesis.Range); err != nil {
		return s, fmt.Errorf("read the site's range: %w", err)
	}
	for id, r := range ledger.ReadAll[ledger.Member](view, ledger.PrefixMember) {
		s.Members = append(s.Members, roles.Member{
			ID: nodeID(id), Hostname: r.Value.Hostname, StaticRole: roles.Role(r.Value.StaticRole), Joined: r.Index,
			Removed: ledger.IsRemoved(view, id),
		})
	}
	for id, r := range ledger.ReadAll[ledger.Role](view, ledger.PrefixRole) {
		s.Roles[nodeID(id)] = roles.Role(r.Value.Role)
		if r.Value.Tenure > 0 {
			s.Tenures[nodeID(id)] = roles.Tenure{N: r.Value.Tenure, Cleared: r.Value.Cleared}
		}
	}
	for id, r := range ledger.ReadAll[ledger.Address](view, ledger.PrefixAddress) {
		if s.Addresses[nodeID(id)], err = netip.ParseAddr(r.Value.Addr); err != nil {
			return s, fmt.Errorf("read the address of %s: %w", id, err)
		}
	}
	for id, r := range ledger.ReadAll[ledger.Name](view, ledger.PrefixName) {
		s.Names[nodeID(id)] = r.Value.Name
	}
	for id, r := range ledger.ReadAll[ledger.Request](view, ledger.PrefixRequest) {
		s.Requests[nodeID(id)] = roles.Request(r.Value.Do)
	}
	open, replacing, err := ledger.Read[ledger.Replacement](view, ledger.KeyReplacement)
	if err != nil {
		return s, err
	}
	if replacing {
		r := open.Value
		s.Replacement = &roles.Replacement{
			Old: roles.NodeID(r.Old), Member: r.Member, Survivor: roles.NodeID(r.Survivor), Successor: roles.NodeID(r.Successor),
			Step: roles.Step(r.Step), Gone: r.Gone, Reason: r.Reason,
		}
	}
	counter, _, err := ledger.Read[ledger.Counter](view, ledger.KeyCounter)
	if err != nil {
		return s, err
	}
	s.NextAddress = counter.Value.Next
	epoch, started, err := ledger.Read[ledger.Epoch](view, ledger.KeyEpoch)
	if err != nil {
		return s, err
	}
	if started {
		e := epoch.Value
		s.Epoch = &roles.Epoch{N: e.N, Init: roles.NodeID(e.Init), CAHash: e.CAHash, FormedMasters: e.Formed}
	}
	return s, nil
}

// policyRecord is the site's policy as it was written: the genesis record's
// until an operator changed it.
func policyRecord(view ledger.View, genesis ledger.Genesis) json.RawMessage {
	if e, changed := view.Get(ledger.KeyPolicy); changed {
		return e.Value
	}
	return genesis.Policy
}

// nodeID is the planner's name for a node.
func nodeID(id peer.ID) roles.NodeID { return roles.NodeID(id.String()) }

// peerOf turns the planner's name for a node into the mesh's.
func peerOf(id roles.NodeID) (peer.ID, error) {
	p, err := peer.Decode(string(id))
	if err != nil {
		return "", fmt.Errorf("read node ID %q: %w", id, err)
	}
	return p, nil
}
