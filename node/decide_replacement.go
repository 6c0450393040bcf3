package node

import (
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// addReplacement writes the records of the decisions about a change of members.
func (t *draft) addReplacement(d roles.Decision) error {
	before, err := t.state()
	if err != nil {
		return err
	}
	after := roles.Apply(before, d)
	switch d := d.(type) {
	case roles.OpenReplacement:
		if err := t.dropRequest(d.Old); err != nil {
			return err
		}
	case roles.DropRequest:
		return t.dropRequest(d.ID)
	case roles.NameMember, roles.AdvanceReplacement, roles.CloseReplacement:
	case roles.GivePlace:
		for _, id := range []roles.NodeID{d.Old, d.Successor} {
			if err := t.setRole(id, after, d.Reason); err != nil {
				return err
			}
		}
		if d.Gone {
			if err := t.setRemoved(d.Old, ledger.Removed{Reason: d.Reason, Role: string(before.Roles[d.Old])}); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("decide: unknown decision %T", d)
	}
	if after.Replacement == nil {
		t.set(ledger.KeyReplacement, nil)
		return nil
	}
	t.set(ledger.KeyReplacement, fresh(replacementRecord(*after.Replacement)))
	return nil
}

func replacementRecord(r roles.Replacement) ledger.Replacement {
	return ledger.Replacement{
		Old: string(r.Old), Member: r.Member, Survivor: string(r.Survivor), Successor: string(r.Successor), Step: string(r.Step),
		Gone: r.Gone, Reason: r.Reason,
	}
}

// state is the state that the next decision is made from.
func (t *draft) state() (roles.State, error) {
	s, err := siteState(t.view)
	return roles.ApplyAll(s, t.before...), err
}

// role is the role record of a node as this draft has it.
func (t *draft) role(id peer.ID) (ledger.Record[ledger.Role], error) {
	if pending, ok := t.records[ledger.RoleKey(id)].(ledger.Record[ledger.Role]); ok {
		return pending, nil
	}
	role, _, err := ledger.Read[ledger.Role](t.view, ledger.RoleKey(id))
	return role, err
}

// setRole writes what a change of places made of a node, "" for nobody.
func (t *draft) setRole(node roles.NodeID, after roles.State, reason string) error {
	if node == "" || after.Roles[node] == roles.None {
		return nil
	}
	id, err := peerOf(node)
	if err != nil {
		return err
	}
	role, err := t.role(id)
	if err != nil {
		return err
	}
	tenure := after.Tenures[node]
	role.Value = ledger.Role{Role: string(after.Roles[node]), Reason: reason, Tenure: tenure.N, Cleared: tenure.Cleared}
	t.set(ledger.RoleKey(id), role)
	return nil
}

func (t *draft) setRemoved(node roles.NodeID, record ledger.Removed) error {
	id, err := peerOf(node)
	if err != nil {
		return err
	}
	t.set(ledger.RoleKey(id), nil)
	t.set(ledger.NameKey(id), nil)
	t.set(ledger.RemovedKey(id), fresh(record))
	return nil
}

func (t *draft) dropRequest(node roles.NodeID) error {
	id, err := peerOf(node)
	if err != nil {
		return err
	}
	t.set(ledger.RequestKey(id), nil)
	return nil
}
