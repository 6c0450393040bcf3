package p2p

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/libp2p/go-libp2p/core/peer"
)

// The wire of admission, version 1 (docs/PROTOCOL.md). Every message is a frame:
// two bytes of length in big-endian order, then the body.
//
//	dialer                                listener
//	hello    -------------------------->
//	         <--------------------------  hello
//	proof    -------------------------->           listener judges
//	         <--------------------------  proof
//	         <--------------------------  greeting
//	greeting -------------------------->  dialer has judged before it sends this
//
// hello: "muster admission" ‖ version (1) ‖ role (1) ‖ epoch (8) ‖ nonce (32).
// proof: kind (1: 0 none, 1 HMAC) ‖ HMAC-SHA256 (32, zeros if none).
// greeting: version (1) ‖ instance (8) ‖ sequence (8) ‖ generation (8) ‖ length (1) ‖ site.
// In the place of its greeting a listener may say why there is none: 0 ‖ reason
// (1: 1 token replaced, 2 identity revoked).
// Bytes after those known belong to later versions; they are covered by the
// proof and otherwise ignored.
//
// The hellos hold nothing that a stranger could use. The greetings name the site,
// so they are sent last, inside the encrypted connection to a peer that was
// accepted; that a greeting comes is the sign that the other end accepts.
const (
	admissionMagic   = "muster admission"
	admissionVersion = 1
	maxAdmissionBody = 256 // bytes

	nonceSize    = 32
	helloSize    = len(admissionMagic) + 1 + 1 + 8 + nonceSize
	proofSize    = 1 + sha256.Size
	greetingSize = 1 + 8 + 8 + 8 + 1
	maxSite      = 64 // bytes

	proofNone = 0
	proofHMAC = 1
)

// admissionRole is the end of the connection that speaks.
type admissionRole byte

const (
	roleDialer   admissionRole = 'D'
	roleListener admissionRole = 'L'
)

func (r admissionRole) other() admissionRole {
	if r == roleDialer {
		return roleListener
	}
	return roleDialer
}

// hello opens admission.
type hello struct {
	Version byte
	Role    admissionRole
	Epoch   uint64 // how often the token was replaced, as far as the sender knows
	Nonce   [nonceSize]byte
}

func newHello(role admissionRole, epoch uint64) hello {
	h := hello{Version: admissionVersion, Role: role, Epoch: epoch}
	rand.Read(h.Nonce[:])
	return h
}

func (h hello) encode() []byte {
	b := append([]byte(admissionMagic), h.Version, byte(h.Role))
	b = binary.BigEndian.AppendUint64(b, h.Epoch)
	return append(b, h.Nonce[:]...)
}

func decodeHello(b []byte) (hello, error) {
	rest, ok := bytes.CutPrefix(b, []byte(admissionMagic))
	if !ok || len(b) < helloSize {
		return hello{}, errors.New("no hello of admission")
	}
	h := hello{Version: rest[0], Role: admissionRole(rest[1]), Epoch: binary.BigEndian.Uint64(rest[2:])}
	copy(h.Nonce[:], rest[10:])
	if h.Version < admissionVersion {
		return hello{}, fmt.Errorf("hello of version %d, this Muster speaks %d", h.Version, admissionVersion)
	}
	if h.Role != roleDialer && h.Role != roleListener {
		return hello{}, errors.New("hello of no known role")
	}
	return h, nil
}

// transcript is all that a proof is bound to. A proof made for one connection,
// one direction or one pair of peers is worth nothing for another: the IDs are
// those that TLS authenticated, the binding is that TLS session's own secret.
type transcript struct {
	Dialer, Listener           peer.ID
	DialerHello, ListenerHello []byte // as sent
	Binding                    []byte // RFC 5705 exporter of the TLS session
}

// mac returns what prover proves with.
func (t transcript) mac(key [32]byte, prover admissionRole) []byte {
	m := hmac.New(sha256.New, key[:])
	var b []byte
	for _, field := range [][]byte{
		[]byte("muster admission proof v1"),
		{byte(prover)},
		[]byte(t.Dialer), []byte(t.Listener), t.DialerHello, t.ListenerHello, t.Binding,
	} {
		b = appendField(b, field)
	}
	m.Write(b)
	return m.Sum(nil)
}

// encodeProof makes prover's proof, or says that it has none when key is nil.
func (t transcript) encodeProof(key *[32]byte, prover admissionRole) []byte {
	b := make([]byte, proofSize)
	if key != nil {
		b[0] = proofHMAC
		copy(b[1:], t.mac(*key, prover))
	}
	return b
}

// proves reports whether proof shows that prover knows key. A malformed proof is
// an error; one that is absent or wrong is not.
func (t transcript) proves(proof []byte, key *[32]byte, prover admissionRole) (bool, error) {
	if len(proof) < proofSize || proof[0] > proofHMAC {
		return false, errors.New("no proof of admission")
	}
	if key == nil || proof[0] == proofNone {
		return false, nil
	}
	return subtle.ConstantTimeCompare(proof[1:proofSize], t.mac(*key, prover)) == 1, nil
}

// salutation is a Greeting on the wire. Instance is drawn when the process
// starts and Sequence counts its changes, so that of two greetings that overtook
// each other on two connections the newer is known.
type salutation struct {
	Greeting
	Instance, Sequence uint64
}

func (s salutation) encode() []byte {
	b := []byte{admissionVersion}
	b = binary.BigEndian.AppendUint64(b, s.Instance)
	b = binary.BigEndian.AppendUint64(b, s.Sequence)
	b = binary.BigEndian.AppendUint64(b, s.Generation)
	return append(append(b, byte(len(s.Site))), s.Site...)
}

func decodeSalutation(b []byte) (salutation, error) {
	if len(b) < greetingSize || b[0] < 1 || int(b[greetingSize-1]) > maxSite || len(b) < greetingSize+int(b[greetingSize-1]) {
		return salutation{}, errors.New("no greeting")
	}
	return salutation{
		Instance: binary.BigEndian.Uint64(b[1:]),
		Sequence: binary.BigEndian.Uint64(b[9:]),
		Greeting: Greeting{
			Generation: binary.BigEndian.Uint64(b[17:]),
			Site:       string(b[greetingSize : greetingSize+int(b[greetingSize-1])]),
		},
	}, nil
}

// refusal is said in the place of a greeting, to a dialer that belonged to the
// site once. Its version is none that a greeting can have.
type refusal byte

const (
	refusedToken    refusal = 1
	refusedIdentity refusal = 2
)

func encodeRefusal(r refusal) []byte { return []byte{0, byte(r)} }

// decodeRefusal returns the error that a frame in the place of a greeting stands
// for, or nil when it is no refusal. One that is not known says that there is one.
func decodeRefusal(b []byte) error {
	if len(b) < 2 || b[0] != 0 {
		return nil
	}
	switch refusal(b[1]) {
	case refusedToken:
		return ErrTokenReplaced
	case refusedIdentity:
		return ErrRevokedThere
	}
	return ErrHungUp
}

// newerThan reports whether s replaces old. A greeting of another instance is of
// a process that started later: the earlier one's connections died with it.
func (s salutation) newerThan(old salutation) bool {
	return s.Instance != old.Instance || s.Sequence > old.Sequence
}

func writeFrame(w io.Writer, bodies ...[]byte) error {
	var b []byte
	for _, body := range bodies {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(body))), body...)
	}
	_, err := w.Write(b)
	return err
}

var errFrameTooLong = errors.New("frame too long")

func readFrame(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(size[:])
	if n > maxAdmissionBody {
		return nil, errFrameTooLong
	}
	body := make([]byte, n)
	_, err := io.ReadFull(r, body)
	return body, err
}
