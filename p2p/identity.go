package p2p

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	libp2pcrypto "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

// IdentityOutcome says how OpenIdentity came by the identity.
type IdentityOutcome int

const (
	IdentityKept     IdentityOutcome = iota // the one on disk
	IdentityNew                             // the first one of this state directory
	IdentityReplaced                        // the disk was cloned from another machine: a new one, and the state is moved aside
)

func (o IdentityOutcome) String() string {
	switch o {
	case IdentityKept:
		return "kept"
	case IdentityNew:
		return "new"
	case IdentityReplaced:
		return "replaced"
	}
	return fmt.Sprintf("IdentityOutcome(%d)", int(o))
}

// ErrIdentityDamaged means that the identity file is there and is no identity.
// Nothing is made in its place: a node that forgot who it was would take a
// second address, a second role and a second vote.
var ErrIdentityDamaged = errors.New("identity file is damaged; restore it, or wipe the whole state directory to start as a new node")

const (
	identityFile    = "identity.json"
	identityVersion = 1
	maxIdentityFile = 16 << 10 // bytes

	// replacedDir keeps what a cloned disk brought along, one copy.
	replacedDir        = "replaced"
	replacedPartialDir = "replaced.partial"
)

// Identity is a node's Ed25519 key and its peer ID. It does not print its key.
type Identity struct {
	dir  string
	disk stateDisk
	file identityRecord
	key  ed25519.PrivateKey
	p2p  libp2pcrypto.PrivKey
	id   peer.ID
}

// identityRecord is the file. The ID is derived from the seed and doubles as its
// checksum.
type identityRecord struct {
	Version  int      `json:"version"`
	ID       string   `json:"id"`
	Seed     []byte   `json:"seed"`
	Hardware Hardware `json:"hardware"`

	// Replaced stays until the caller has cleaned up after the other machine,
	// so that a power cut in between cannot lose the outcome.
	Replaced bool `json:"replaced,omitempty"`
}

// OpenIdentity reads the identity in dir, the node's state directory, or makes
// one. It is bound to the hardware: found on another machine, everything in dir
// is moved to dir/replaced and the node starts clean (IdentityReplaced, again at
// every start until ConfirmReplaced). A file that cannot be read as an identity
// is ErrIdentityDamaged.
func OpenIdentity(dir string, hw Hardware) (*Identity, IdentityOutcome, error) {
	return openIdentity(dir, hw, osDisk{})
}

func openIdentity(dir string, hw Hardware, disk stateDisk) (*Identity, IdentityOutcome, error) {
	if hw.empty() {
		return nil, 0, fmt.Errorf("open identity: %w", ErrNoHardware)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, 0, fmt.Errorf("open identity: %w", err)
	}
	path := filepath.Join(dir, identityFile)
	record, err := readIdentity(path)
	interrupted := exists(filepath.Join(dir, replacedPartialDir))

	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return nil, 0, fmt.Errorf("open identity %s: %w", path, err)
	case interrupted && record.Replaced && record.Hardware.Same(hw):
		// Only the last step was cut off.
		if err := keepAside(dir, disk); err != nil {
			return nil, 0, err
		}
	case interrupted || err == nil && !record.Hardware.Same(hw):
		id, err := replaceIdentity(dir, hw, disk)
		return id, IdentityReplaced, err
	case err != nil:
		id, err := createIdentity(dir, hw, disk, false)
		return id, IdentityNew, err
	}

	id, err := newIdentity(dir, disk, record)
	if err != nil {
		return nil, 0, fmt.Errorf("open identity %s: %w", path, err)
	}
	if !record.Hardware.equal(hw) {
		// Bind to what the machine is now, so that one changed part a year
		// never adds up to another machine.
		id.file.Hardware = hw
		if err := id.save(); err != nil {
			return nil, 0, err
		}
	}
	if record.Replaced {
		return id, IdentityReplaced, nil
	}
	return id, IdentityKept, nil
}

// ConfirmReplaced records that everything the other machine left outside of the
// state directory is gone, and ends the outcome IdentityReplaced.
func (i *Identity) ConfirmReplaced() error {
	i.file.Replaced = false
	return i.save()
}

// ID returns the peer ID.
func (i *Identity) ID() peer.ID { return i.id }

// PrivateKey returns the key in libp2p's form.
func (i *Identity) PrivateKey() libp2pcrypto.PrivKey { return i.p2p }

// Ed25519 returns the key in the standard library's form.
func (i *Identity) Ed25519() ed25519.PrivateKey { return i.key }

// Sign signs msg for the one use that context names (Ed25519ctx, RFC 8032 §5.1),
// so that a signature for one use is none for another. The context has 1 to 255
// bytes.
func (i *Identity) Sign(context string, msg []byte) ([]byte, error) {
	if context == "" {
		return nil, errors.New("sign: the context is empty")
	}
	sig, err := i.key.Sign(nil, msg, &ed25519.Options{Hash: crypto.Hash(0), Context: context})
	if err != nil {
		return nil, fmt.Errorf("sign as %q: %w", context, err)
	}
	return sig, nil
}

// ErrBadSignature means that the named peer did not sign that message for that use.
var ErrBadSignature = errors.New("signature does not match")

// Verify checks a signature that Sign made.
func Verify(id peer.ID, context string, msg, sig []byte) error {
	if context == "" {
		return errors.New("verify: the context is empty")
	}
	pub, err := PublicKey(id)
	if err != nil {
		return fmt.Errorf("verify %q: %w", context, err)
	}
	if err := ed25519.VerifyWithOptions(pub, msg, sig, &ed25519.Options{Hash: crypto.Hash(0), Context: context}); err != nil {
		return fmt.Errorf("verify %q of %s: %w", context, id, ErrBadSignature)
	}
	return nil
}

// PublicKey returns the Ed25519 key that a peer ID holds.
func PublicKey(id peer.ID) (ed25519.PublicKey, error) {
	pub, err := id.ExtractPublicKey()
	if err != nil {
		return nil, fmt.Errorf("peer ID %q holds no public key: %w", id, err)
	}
	if pub.Type() != libp2pcrypto.Ed25519 {
		return nil, fmt.Errorf("peer ID %s holds a key that is not Ed25519", id)
	}
	raw, err := pub.Raw()
	if err != nil {
		return nil, fmt.Errorf("public key of %s: %w", id, err)
	}
	return raw, nil
}

// DefaultHostname is the name of a machine that has none of its own. The tail of
// the ID is taken: all Ed25519 peer IDs begin alike.
func DefaultHostname(id peer.ID) string {
	s := strings.ToLower(id.String())
	return "muster-" + s[max(0, len(s)-8):]
}

func (i *Identity) String() string       { return i.id.String() }
func (i *Identity) GoString() string     { return i.id.String() }
func (i *Identity) LogValue() slog.Value { return slog.StringValue(i.id.String()) }

// createIdentity returns no identity unless it is on disk.
func createIdentity(dir string, hw Hardware, disk stateDisk, replaced bool) (*Identity, error) {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	id, err := newIdentity(dir, disk, identityRecord{Version: identityVersion, Seed: seed, Hardware: hw, Replaced: replaced})
	if err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	id.file.ID = id.id.String()
	if err := id.save(); err != nil {
		return nil, err
	}
	return id, nil
}

func newIdentity(dir string, disk stateDisk, record identityRecord) (*Identity, error) {
	key := ed25519.NewKeyFromSeed(record.Seed)
	p2p, err := libp2pcrypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, err
	}
	id, err := peer.IDFromPrivateKey(p2p)
	if err != nil {
		return nil, err
	}
	return &Identity{dir: dir, disk: disk, file: record, key: key, p2p: p2p, id: id}, nil
}

func (i *Identity) save() error {
	b, err := json.MarshalIndent(i.file, "", "  ")
	if err == nil {
		err = i.disk.Write(filepath.Join(i.dir, identityFile), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

// readIdentity returns os.ErrNotExist, ErrIdentityDamaged, or what the disk says.
func readIdentity(path string) (identityRecord, error) {
	info, err := os.Stat(path)
	if err != nil {
		return identityRecord{}, err
	}
	if info.Size() > maxIdentityFile {
		return identityRecord{}, ErrIdentityDamaged
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return identityRecord{}, err
	}
	return parseIdentity(b)
}

func parseIdentity(b []byte) (identityRecord, error) {
	var r identityRecord
	if json.Unmarshal(b, &r) != nil { // its error may quote the file
		return identityRecord{}, ErrIdentityDamaged
	}
	if r.Version > identityVersion {
		return identityRecord{}, fmt.Errorf("identity has version %d, this Muster reads %d", r.Version, identityVersion)
	}
	if r.Version != identityVersion || len(r.Seed) != ed25519.SeedSize || r.Hardware.empty() {
		return identityRecord{}, ErrIdentityDamaged
	}
	id, err := newIdentity("", nil, r)
	if err != nil || subtle.ConstantTimeCompare([]byte(id.id.String()), []byte(r.ID)) != 1 {
		return identityRecord{}, ErrIdentityDamaged
	}
	return r, nil
}
