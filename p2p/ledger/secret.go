package ledger

import (
	"fmt"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
)

// Secret is one of the site's secrets, as the ledger holds it. A record has room
// for maxRecipients nodes; in a larger site there are further parts at the keys
// "secret/NAME/2", "secret/NAME/3" …, sealed to the rest. Whoever changes the
// secret writes the first part and deletes the others, and whoever writes another
// does so on the condition that the first is as it was: all hold the same.
type Secret struct {
	key   string
	parts []secretPart // by key, so the first part is the first
}

type secretPart struct {
	key    string
	index  uint64 // 0: not in the ledger
	sealed Sealed
}

// ReadSecret returns what a View has of a secret, by its name ([SecretServerToken] …).
func ReadSecret(v View, name string) (Secret, error) {
	s := Secret{key: SecretKey(name)}
	for _, e := range v.List(s.key) {
		if e.Key != s.key && !strings.HasPrefix(e.Key, s.key+"/") {
			continue // another, whose name begins alike
		}
		r, err := Decode[Sealed](e)
		if err != nil {
			return Secret{}, err
		}
		s.parts = append(s.parts, secretPart{key: e.Key, index: e.Index, sealed: r.Value})
	}
	return s, nil
}

// Exists tells whether there is such a secret.
func (s Secret) Exists() bool { return s.first().index > 0 }

// Missing returns those of want that cannot read the secret.
func (s Secret) Missing(want []peer.ID) []peer.ID {
	for _, p := range s.parts {
		want = p.sealed.Missing(want)
	}
	return want
}

// Open returns the secret: ErrNotRecipient when it is sealed to others.
func (s Secret) Open(id *p2p.Identity) ([]byte, error) {
	for _, p := range s.parts {
		if len(p.sealed.Missing([]peer.ID{id.ID()})) == 0 {
			return p.sealed.Open(id)
		}
	}
	return nil, fmt.Errorf("open sealed secret: %w", ErrNotRecipient)
}

// Replace adds to a transaction that the secret is another from now on, or the
// first. It is sealed to as many as fit into one record, the first of them first;
// [Secret.Extend] seals it to the rest.
func (s Secret) Replace(txn Txn, secret []byte, to []peer.ID) (Txn, error) {
	first := s.first()
	// A part that was added since s was read would keep the former secret.
	txn = txn.If(s.freeKey(), 0)
	txn, err := first.set(txn, secret, to[:min(len(to), maxRecipients)])
	if err != nil {
		return txn, err
	}
	for _, p := range s.parts {
		if p.key != first.key {
			txn = txn.If(p.key, p.index).Del(p.key)
		}
	}
	return txn, nil
}

// Extend returns the transaction that seals the secret, which the caller has
// opened, to those of want that cannot read it, or to as many of them as fit into
// one record: after it is decided, ask again.
func (s Secret) Extend(secret []byte, want []peer.ID) (Txn, error) {
	part := secretPart{}
	var to []peer.ID
	for _, p := range s.parts {
		to = slices.DeleteFunc(p.sealed.Recipients(), func(id peer.ID) bool { return !slices.Contains(want, id) })
		if len(to) < maxRecipients {
			part = p
			break
		}
	}
	if part.key == "" {
		part.key, to = s.freeKey(), nil
	}
	missing := s.Missing(want)
	to = append(to, missing[:min(len(missing), maxRecipients-len(to))]...)
	txn := Txn{}
	if first := s.first(); part.key != first.key {
		txn = txn.If(first.key, first.index)
	}
	return part.set(txn, secret, to)
}

func (s Secret) first() secretPart {
	if len(s.parts) > 0 && s.parts[0].key == s.key {
		return s.parts[0]
	}
	return secretPart{key: s.key}
}

// freeKey is the first after the first part that the ledger does not have.
func (s Secret) freeKey() string {
	for n := 2; ; n++ {
		key := fmt.Sprintf("%s/%d", s.key, n)
		if !slices.ContainsFunc(s.parts, func(p secretPart) bool { return p.key == key }) {
			return key
		}
	}
}

func (p secretPart) set(txn Txn, secret []byte, to []peer.ID) (Txn, error) {
	sealed, err := Seal(secret, to)
	if err != nil {
		return txn, fmt.Errorf("%s: %w", p.key, err)
	}
	value, err := sealed.Encode()
	if err != nil {
		return txn, fmt.Errorf("%s: %w", p.key, err)
	}
	return txn.If(p.key, p.index).Set(p.key, value), nil
}
