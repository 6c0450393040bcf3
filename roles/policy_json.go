package roles

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// MaxPolicySize bounds an encoded policy, in bytes.
const MaxPolicySize = 4096

// ErrBadPolicy is wrapped by every error of [ParsePolicy].
var ErrBadPolicy = errors.New("bad policy")

// policyFields has Policy's fields without its methods, so that encoding/json does not call itself.
type policyFields Policy

// policyJSON spells durations as Go does ("15m0s"): a policy is read by people.
type policyJSON struct {
	policyFields
	ReplaceAfter string `json:"replace_after"`
}

// MarshalJSON encodes p as ledger records and genesis hold it, without the credentials of ExternalDB.
func (p Policy) MarshalJSON() ([]byte, error) {
	p.ExternalDB = datastoreName(p.ExternalDB)
	return json.Marshal(policyJSON{policyFields: policyFields(p), ReplaceAfter: p.ReplaceAfter.String()})
}

// UnmarshalJSON decodes into p. Fields that are absent keep their value, unknown ones are ignored: during an upgrade a site
// runs two versions. A policy is changed with ChangePolicy, because a decoded copy has lost the newer version's fields.
func (p *Policy) UnmarshalJSON(data []byte) error {
	wire := policyJSON{policyFields: policyFields(*p), ReplaceAfter: p.ReplaceAfter.String()}
	if err := json.Unmarshal(data, &wire); err != nil {
		return err
	}
	after, err := time.ParseDuration(wire.ReplaceAfter)
	if err != nil {
		return fmt.Errorf("replace_after: %w", err)
	}
	*p = Policy(wire.policyFields)
	p.ReplaceAfter = after
	p.ExternalDB = datastoreName(p.ExternalDB)
	return nil
}

// ParsePolicy decodes and validates a policy record. What the record does not mention has its default.
func ParsePolicy(data []byte) (Policy, error) {
	if len(data) > MaxPolicySize {
		return Policy{}, fmt.Errorf("%w: %d bytes, at most %d", ErrBadPolicy, len(data), MaxPolicySize)
	}
	if !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
		return Policy{}, fmt.Errorf("%w: not a JSON object", ErrBadPolicy)
	}
	p := DefaultPolicy()
	if err := json.Unmarshal(data, &p); err != nil {
		return Policy{}, fmt.Errorf("%w: %w", ErrBadPolicy, err)
	}
	if err := p.Validate(); err != nil {
		return Policy{}, fmt.Errorf("%w: %w", ErrBadPolicy, err)
	}
	return p, nil
}

// ChangePolicy returns the record of a running site's policy after changes, an object of the fields to set. Fields of the
// record that this version does not know survive, such fields in changes are refused. Errors are ErrBadPolicy, or
// ErrFixedPolicy for what cannot change any more.
func ChangePolicy(record, changes []byte) (json.RawMessage, error) {
	current, err := ParsePolicy(record)
	if err != nil {
		return nil, fmt.Errorf("the present policy: %w", err)
	}
	if len(changes) > MaxPolicySize {
		return nil, fmt.Errorf("%w: changes of %d bytes, at most %d", ErrBadPolicy, len(changes), MaxPolicySize)
	}
	strict := json.NewDecoder(bytes.NewReader(changes))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&policyJSON{}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadPolicy, err)
	}
	merged := make(map[string]json.RawMessage)
	for _, object := range [][]byte{record, changes} {
		if err := json.Unmarshal(object, &merged); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadPolicy, err)
		}
	}
	changed, err := json.Marshal(merged)
	if err != nil {
		return nil, fmt.Errorf("encode the policy: %w", err)
	}
	next, err := ParsePolicy(changed)
	if err != nil {
		return nil, err
	}
	if err := current.CheckChange(next); err != nil {
		return nil, err
	}
	return changed, nil
}
