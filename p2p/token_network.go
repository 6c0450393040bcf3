package p2p

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"

	"github.com/multiformats/go-multiaddr"
)

// Network is what a token and a network_id make together: the source of every
// key and of every public name. Two network_ids are two networks that cannot
// tell each other from strangers.
type Network struct {
	prk       []byte // HKDF-Extract(secret, salt holding the network_id)
	bootstrap []multiaddr.Multiaddr
}

// Network derives the network that networkID names under this token.
func (t Token) Network(networkID string) Network {
	salt := appendField([]byte("muster network v1"), []byte(networkID))
	prk, err := hkdf.Extract(sha256.New, t.secret, salt)
	if err != nil {
		panic("p2p: HKDF-Extract with SHA-256: " + err.Error()) // only FIPS mode with a short secret
	}
	return Network{prk: prk, bootstrap: t.bootstrap}
}

// Key returns the secret key for the one use that label names.
func (n Network) Key(label string) [32]byte {
	return [32]byte(n.expand("key", label, 32))
}

// EnrolmentKey returns the key with which a newcomer proves that it knows the
// token. Each epoch has a token of its own, so the label counts nothing.
func (n Network) EnrolmentKey() [32]byte { return n.Key("enrolment 0") }

// Label returns a public name for the one use that label names: 20 hexadecimal
// characters that say nothing about the token, nor about any other label.
func (n Network) Label(label string) string {
	return hex.EncodeToString(n.expand("label", label, 10))
}

// Bootstrap returns the addresses that the token carries.
func (n Network) Bootstrap() []string {
	out := make([]string, len(n.bootstrap))
	for i, addr := range n.bootstrap {
		out[i] = addr.String()
	}
	return out
}

const redactedNetwork = "[network keys]"

func (n Network) String() string               { return redactedNetwork }
func (n Network) GoString() string             { return redactedNetwork }
func (n Network) LogValue() slog.Value         { return slog.StringValue(redactedNetwork) }
func (n Network) MarshalJSON() ([]byte, error) { return []byte(`"` + redactedNetwork + `"`), nil }

func (n Network) expand(kind, label string, size int) []byte {
	info := appendField(appendField([]byte("muster v1"), []byte(kind)), []byte(label))
	out, err := hkdf.Expand(sha256.New, n.prk, string(info), size)
	if err != nil {
		panic("p2p: HKDF-Expand with SHA-256: " + err.Error())
	}
	return out
}
