package node

import (
	"encoding/json"
	"fmt"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// transaction turns the planner's decisions into one transaction: all of them
// or none, and only if nothing that they rest on has changed since view.
func transaction(view ledger.View, decisions []roles.Decision) (ledger.Txn, error) {
	t := draft{view: view, records: map[string]encoder{}}
	// Every plan rewrites the counter, so that of two plans made from the same
	// state only one can commit, whatever they are about.
	counter, _, err := ledger.Read[ledger.Counter](view, ledger.KeyCounter)
	if err != nil {
		return ledger.Txn{}, err
	}
	counter.Value.Next = max(counter.Value.Next, 1)
	t.set(ledger.KeyCounter, counter)
	for _, d := range decisions {
		if err := t.add(d); err != nil {
			return ledger.Txn{}, err
		}
		t.before = append(t.before, d)
	}
	return t.txn()
}

// draft collects the records of a transaction; a later decision about the same
// key replaces an earlier one.
type draft struct {
	view    ledger.View
	order   []string
	records map[string]encoder // nil: deleted
	before  []roles.Decision   // those that were added
}

func (t *draft) add(d roles.Decision) error {
	switch d := d.(type) {
	case roles.AssignAddress:
		id, err := peerOf(d.ID)
		if err != nil {
			return err
		}
		t.set(ledger.AddressKey(id), fresh(ledger.Address{Addr: d.Addr.String()}))
		counter, _, err := ledger.Read[ledger.Counter](t.view, ledger.KeyCounter)
		if err != nil {
			return err
		}
		counter.Value.Next = d.Counter
		t.set(ledger.KeyCounter, counter)
	case roles.AssignName:
		id, err := peerOf(d.ID)
		if err != nil {
			return err
		}
		t.set(ledger.NameKey(id), fresh(ledger.Name{Name: d.Name}))
	case roles.AssignRole:
		id, err := peerOf(d.ID)
		if err != nil {
			return err
		}
		role, err := t.role(id)
		if err != nil {
			return err
		}
		role.Value.Role, role.Value.Reason = string(d.Role), d.Reason
		t.set(ledger.RoleKey(id), role)
	case roles.StartEpoch:
		t.set(ledger.KeyEpoch, fresh(ledger.Epoch{N: d.N, Init: string(d.Init)}))
	case roles.MarkFormed:
		epoch, _, err := ledger.Read[ledger.Epoch](t.view, ledger.KeyEpoch)
		if err != nil {
			return err
		}
		epoch.Value.Formed = true
		t.set(ledger.KeyEpoch, epoch)
	default:
		return t.addReplacement(d)
	}
	return nil
}

// encoder is a ledger.Record of any kind.
type encoder interface{ Encode() ([]byte, error) }

// fresh is a record that replaces whatever was there.
func fresh[T any](value T) encoder { return ledger.Record[T]{Value: value} }

func (t *draft) set(key string, record encoder) {
	if _, known := t.records[key]; !known {
		t.order = append(t.order, key)
	}
	t.records[key] = record
}

func (t *draft) txn() (ledger.Txn, error) {
	var txn ledger.Txn
	for _, key := range t.order {
		record := t.records[key]
		if record == nil {
			if t.view.IndexOf(key) > 0 {
				txn = txn.If(key, t.view.IndexOf(key)).Del(key)
			}
			continue
		}
		value, err := record.Encode()
		if err != nil {
			return txn, fmt.Errorf("write %s: %w", key, err)
		}
		txn = txn.If(key, t.view.IndexOf(key)).Set(key, value)
	}
	return txn, nil
}

// enrolRequest is what this node says of itself when it asks to be a member.
func (a *Agent) enrolRequest() ledger.EnrolmentRequest {
	return ledger.EnrolmentRequest{
		Hostname: a.hostname, StaticRole: string(a.staticRole()), Hardware: a.hardware, Muster: Version, Features: FeatureLevel,
	}
}

// ledgerConfig is what this node's ledger is made of.
func (a *Agent) ledgerConfig() ledger.Config {
	return ledger.Config{
		Dir: a.path("ledger"), Identity: a.identity, Host: a.host, Log: a.log, CheckPolicy: checkPolicy, Admit: a.admit,
	}
}

// checkPolicy refuses a policy that this version would not understand.
func checkPolicy(text json.RawMessage) error {
	_, err := roles.ParsePolicy(text)
	return err
}
