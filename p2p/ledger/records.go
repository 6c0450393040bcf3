package ledger

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Roles, by Kairos's names.
const (
	RoleClusterInit = "master/clusterinit"
	RoleHA          = "master/ha"
	RoleMaster      = "master"
	RoleWorker      = "worker"
)

// IsMaster says whether a role is one of the masters'.
func IsMaster(role string) bool {
	return role == RoleClusterInit || role == RoleHA || role == RoleMaster
}

// recordVersion is written into every record as "version".
const recordVersion = 1

// Member is a node that was let in. Request is what it asked for, signed by the
// node itself; the other fields repeat the request for those who only read.
type Member struct {
	ID             string `json:"id"`
	Hostname       string `json:"hostname"`
	StaticRole     string `json:"static_role,omitempty"`
	Hardware       string `json:"hardware"`
	EnrolmentEpoch uint64 `json:"enrolment_epoch"`
	Version        int    `json:"version"`
	Request        []byte `json:"request"`
}

// Role is what the planner made of a node, and why. Tenure counts how often the
// node was made another thing, for which its Kubernetes data has to go; it may
// begin the present one once Cleared says that the masters have forgotten what it
// was before.
type Role struct {
	Role    string `json:"role"`
	Reason  string `json:"reason,omitempty"`
	Tenure  int    `json:"tenure,omitempty"`
	Cleared int    `json:"cleared,omitempty"`
}

// Address is a node's address in the mesh, for the life of the site.
type Address struct {
	Addr string `json:"addr"`
}

// Counter is where addresses come from: the offset in the range of the next
// one. It only grows, so no address is used twice.
type Counter struct {
	Next uint64 `json:"next"`
}

// Name is a node's host name, unique in the site.
type Name struct {
	Name string `json:"name"`
}

// Epoch is the life of one Kubernetes cluster: Init initialises it and alone
// writes CAHash, before which nobody joins. Formed ends automatic repair.
type Epoch struct {
	N      int    `json:"n"`
	Init   string `json:"init"`
	CAHash string `json:"ca_hash,omitempty"`
	Formed bool   `json:"formed,omitempty"`
}

// DNS is what a name in the mesh resolves to.
type DNS struct {
	A    []string `json:"a,omitempty"`
	AAAA []string `json:"aaaa,omitempty"`
}

// Feature is the level of formats that all nodes understand. It only grows.
type Feature struct {
	Level int `json:"level"`
}

// VIP is the lease of the site's virtual address. Whoever holds it keeps the
// address for a bounded time after each Ledger.Sync that still shows this record.
type VIP struct {
	// Holder is the last one while nobody holds the address.
	Holder string `json:"holder"`
	// Fence numbers the grants and only grows.
	Fence uint64 `json:"fence"`
	// Status is VIPHeld, VIPRevoked or VIPReleased.
	Status string `json:"status"`
}

// What becomes of a VIP: granted; taken away, and perhaps still on the holder's
// interface; put down, by the holder's own word.
const (
	VIPHeld     = "held"
	VIPRevoked  = "revoked"
	VIPReleased = "released"
)

// Record is a typed record with what is needed to change it: its index for the
// comparison, and the fields that this version does not know.
type Record[T any] struct {
	Value  T
	Index  uint64
	Author peer.ID

	fields map[string]json.RawMessage
}

// Read returns the record of a key. ok is false when there is none; err is for
// one that cannot be decoded.
func Read[T any](v View, key string) (r Record[T], ok bool, err error) {
	e, ok := v.Get(key)
	if !ok {
		return r, false, nil
	}
	r, err = Decode[T](e)
	return r, err == nil, err
}

// Decode returns the record that an entry holds.
func Decode[T any](e Entry) (Record[T], error) {
	r := Record[T]{Index: e.Index, Author: e.Author}
	if err := json.Unmarshal(e.Value, &r.Value); err != nil {
		return Record[T]{}, fmt.Errorf("read record %q: %w", e.Key, err)
	}
	if err := json.Unmarshal(e.Value, &r.fields); err != nil {
		return Record[T]{}, fmt.Errorf("read record %q: %w", e.Key, err)
	}
	return r, nil
}

// Encode returns the record as JSON, with the unknown fields that it was read
// with: a node must not undo what a newer one has written.
func (r Record[T]) Encode() ([]byte, error) {
	b, err := json.Marshal(r.Value)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	known := knownFields[T]()
	for name, value := range r.fields {
		if _, ours := fields[name]; !ours && !known[name] {
			fields[name] = value
		}
	}
	if v, ok := fields["version"]; !ok || string(v) == "0" {
		fields["version"] = json.RawMessage(fmt.Sprint(recordVersion))
	}
	return json.Marshal(fields)
}

// EncodeRecord returns a new record as JSON.
func EncodeRecord[T any](v T) ([]byte, error) { return Record[T]{Value: v}.Encode() }

// ReadAll returns the records under a prefix whose key ends in a peer ID.
// Records that cannot be decoded are left out: they are checked when proposed,
// so only a newer version can have written them.
func ReadAll[T any](v View, prefix string) map[peer.ID]Record[T] {
	out := map[peer.ID]Record[T]{}
	for _, e := range v.List(prefix) {
		id, err := KeyID(e.Key)
		if err != nil {
			continue
		}
		if r, err := Decode[T](e); err == nil {
			out[id] = r
		}
	}
	return out
}

// ReadGenesis returns the record that the site was made of.
func ReadGenesis(v View) (Genesis, bool) {
	r, ok, err := Read[Genesis](v, KeyGenesis)
	return r.Value, ok && err == nil
}

// Masters returns the nodes that are masters, sorted: by their role where they
// have one, else by the genesis record.
func Masters(v View) []peer.ID {
	roles := ReadAll[Role](v, PrefixRole)
	var out []peer.ID
	for id, r := range roles {
		if IsMaster(r.Value.Role) && !isGone(v, id) {
			out = append(out, id)
		}
	}
	if g, ok := ReadGenesis(v); ok {
		for _, m := range g.Masters {
			id, err := peer.Decode(m)
			if _, decided := roles[id]; err == nil && !decided && !isGone(v, id) {
				out = append(out, id)
			}
		}
	}
	slices.Sort(out)
	return out
}

// IsMember says whether a node belongs to the site: it was let in, or founded
// it; and nobody has removed or revoked it since.
func IsMember(v View, id peer.ID) bool {
	if isGone(v, id) {
		return false
	}
	if _, ok := v.Get(MemberKey(id)); ok {
		return true
	}
	g, ok := ReadGenesis(v)
	return ok && g.Founder(id.String())
}
