package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/crypto/ssh"

	"github.com/muster-edge/muster/p2p"
)

const (
	maxSecretSize = 32 << 10 // bytes before sealing; an admin kubeconfig has 3 kB
	// maxRecipients: each takes some 200 bytes of the record. A secret for more
	// nodes is sealed in parts, under names like "agent-token/2".
	maxRecipients = 150
)

// ErrNotRecipient means that a secret is sealed to others.
var ErrNotRecipient = errors.New("this node is not among the recipients")

// Sealed is a secret that only its recipients can read. It lists them, so that
// everybody can see whom it must be sealed to anew.
type Sealed struct {
	To   []string `json:"to"`  // peer IDs, sorted
	Data []byte   `json:"age"` // age file, binary
}

// Seal encrypts a secret to the nodes: an age file with one SSH Ed25519 stanza
// (filippo.io/age/agessh) for each, made from the key inside its peer ID.
func Seal(secret []byte, to []peer.ID) (Sealed, error) {
	if len(secret) > maxSecretSize {
		return Sealed{}, fmt.Errorf("seal: the secret has %d bytes, more than %d", len(secret), maxSecretSize)
	}
	if len(to) == 0 || len(to) > maxRecipients {
		return Sealed{}, fmt.Errorf("seal: %d recipients, want 1 to %d", len(to), maxRecipients)
	}
	var s Sealed
	var recipients []age.Recipient
	for _, id := range to {
		pub, err := p2p.PublicKey(id)
		if err != nil {
			return Sealed{}, fmt.Errorf("seal to %s: %w", id, err)
		}
		key, err := ssh.NewPublicKey(pub)
		if err != nil {
			return Sealed{}, fmt.Errorf("seal to %s: %w", id, err)
		}
		r, err := agessh.NewEd25519Recipient(key)
		if err != nil {
			return Sealed{}, fmt.Errorf("seal to %s: %w", id, err)
		}
		recipients = append(recipients, r)
		s.To = append(s.To, id.String())
	}
	slices.Sort(s.To)
	if len(slices.Compact(slices.Clone(s.To))) != len(s.To) {
		return Sealed{}, errors.New("seal: a recipient is named twice")
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipients...)
	if err != nil {
		return Sealed{}, fmt.Errorf("seal: %w", err)
	}
	if _, err := w.Write(secret); err != nil {
		return Sealed{}, fmt.Errorf("seal: %w", err)
	}
	if err := w.Close(); err != nil {
		return Sealed{}, fmt.Errorf("seal: %w", err)
	}
	s.Data = out.Bytes()
	return s, nil
}

// Open returns the secret: ErrNotRecipient when it is sealed to others.
func (s Sealed) Open(id *p2p.Identity) ([]byte, error) {
	key, err := agessh.NewEd25519Identity(id.Ed25519())
	if err != nil {
		return nil, fmt.Errorf("open sealed secret: %w", err)
	}
	r, err := age.Decrypt(bytes.NewReader(s.Data), key)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none):
		return nil, fmt.Errorf("open sealed secret: %w", ErrNotRecipient)
	case err != nil:
		return nil, fmt.Errorf("open sealed secret: %w", err)
	}
	secret, err := io.ReadAll(io.LimitReader(r, maxSecretSize+1))
	if err != nil {
		return nil, fmt.Errorf("open sealed secret: %w", err)
	}
	if len(secret) > maxSecretSize {
		return nil, fmt.Errorf("open sealed secret: more than %d bytes", maxSecretSize)
	}
	return secret, nil
}

// Recipients returns whom the secret says it is sealed to.
func (s Sealed) Recipients() []peer.ID {
	var out []peer.ID
	for _, to := range s.To {
		if id, err := peer.Decode(to); err == nil {
			out = append(out, id)
		}
	}
	return out
}

// Missing returns those of want that cannot read the secret.
func (s Sealed) Missing(want []peer.ID) []peer.ID {
	have := s.Recipients()
	return slices.DeleteFunc(slices.Clone(want), func(id peer.ID) bool { return slices.Contains(have, id) })
}

// Encode returns the secret as a ledger record.
func (s Sealed) Encode() ([]byte, error) { return EncodeRecord(s) }

// ParseSealed reads a ledger record. It needs no key, so it cannot tell whether
// the list of recipients is true.
func ParseSealed(b []byte) (Sealed, error) {
	var s Sealed
	if len(b) > MaxValueSize {
		return Sealed{}, fmt.Errorf("%d bytes, more than %d", len(b), MaxValueSize)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return Sealed{}, err
	}
	if len(s.To) == 0 || len(s.To) > maxRecipients {
		return Sealed{}, fmt.Errorf("%d recipients, want 1 to %d", len(s.To), maxRecipients)
	}
	for i, to := range s.To {
		id, err := peer.Decode(to)
		if err != nil || id.String() != to {
			return Sealed{}, fmt.Errorf("recipient %q is not a peer ID", to)
		}
		if i > 0 && s.To[i-1] >= to {
			return Sealed{}, errors.New("recipients are not sorted, or named twice")
		}
	}
	const intro = "age-encryption.org/v1\n"
	if !bytes.HasPrefix(s.Data, []byte(intro)) {
		return Sealed{}, errors.New("the sealed data is not an age file")
	}
	return s, nil
}
