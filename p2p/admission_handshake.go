package p2p

import (
	"errors"
	"fmt"
	"io"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Standing is what the ledger says about an identity.
type Standing int

const (
	StandingUnknown Standing = iota // no record: a newcomer, if it knows the token
	StandingMember                  // enrolled
	StandingRevoked                 // thrown out; it stays out, token or not
)

func (s Standing) String() string {
	switch s {
	case StandingUnknown:
		return "unknown"
	case StandingMember:
		return "member"
	case StandingRevoked:
		return "revoked"
	}
	return fmt.Sprintf("Standing(%d)", int(s))
}

// Greeting is what a node says about itself to whom it has admitted.
type Greeting struct {
	Site       string // "" : no site yet; at most 64 bytes
	Generation uint64
}

var (
	// ErrRevoked means that the peer's identity is revoked here.
	ErrRevoked = errors.New("the identity is revoked")
	// ErrNotProved means that a peer without a record did not prove that it
	// knows the token.
	ErrNotProved = errors.New("neither a member nor a knower of the token (another token, network_id or enrolment epoch)")
	// ErrHungUp means that the other end closed before it greeted: it does not
	// know us as a member and our proof did not convince it, or it revoked us.
	ErrHungUp = errors.New("the other end refuses us (another token, network_id or enrolment epoch, or we are revoked there)")
	// ErrNotMuster means that the peer speaks something else, or damaged.
	ErrNotMuster = errors.New("not a Muster node of this protocol version")

	// ErrTokenReplaced means that the peer proved a token which another has
	// replaced, or that it says so of ours.
	ErrTokenReplaced = errors.New("the token was replaced by another (`muster token rotate`)")
	// ErrRevokedThere means that the other end says that this node is revoked.
	ErrRevokedThere = errors.New("the other end says that this node was revoked")

	// errLeft means that a dialer went before it said anything, as one does that
	// only asks who is there (see probe).
	errLeft = errors.New("left without a word")
)

// handshake is one end of admission, without the connection that carries it.
type handshake struct {
	role          admissionRole
	local, remote peer.ID // as TLS authenticated them
	binding       []byte  // see transcript
	keys          enrolmentKeys
	standing      Standing // of remote
	salutation    salutation
}

// run speaks admission over rw and returns the other end's greeting. An error
// means that nothing but hellos and perhaps a proof was given away. The proof
// is always sent when a key is held, because the other end may know less of us
// than we of it.
func (h handshake) run(rw io.ReadWriter) (salutation, error) {
	if h.standing == StandingRevoked && h.role == roleDialer {
		return salutation{}, ErrRevoked
	}
	ours := newHello(h.role, h.keys.epoch).encode()
	if h.role == roleDialer {
		return h.dial(rw, ours)
	}
	return h.listen(rw, ours)
}

func (h handshake) dial(rw io.ReadWriter, ours []byte) (salutation, error) {
	if err := writeFrame(rw, ours); err != nil {
		return salutation{}, hungUp(err)
	}
	theirs, err := readHello(rw, roleListener)
	if err != nil {
		return salutation{}, err
	}
	t := transcript{Dialer: h.local, Listener: h.remote, DialerHello: ours, ListenerHello: theirs, Binding: h.binding}
	if err := writeFrame(rw, t.encodeProof(h.keys.present, roleDialer)); err != nil {
		return salutation{}, hungUp(err)
	}
	if err := h.judge(rw, t, roleListener); err != nil {
		return salutation{}, err
	}
	greeting, err := readSalutation(rw)
	if err != nil {
		return salutation{}, err
	}
	if err := writeFrame(rw, h.salutation.encode()); err != nil {
		return salutation{}, hungUp(err)
	}
	return greeting, nil
}

func (h handshake) listen(rw io.ReadWriter, ours []byte) (salutation, error) {
	theirs, err := readHello(rw, roleDialer)
	if err != nil {
		return salutation{}, err
	}
	if err := writeFrame(rw, ours); err != nil {
		return salutation{}, hungUp(err)
	}
	t := transcript{Dialer: h.remote, Listener: h.local, DialerHello: theirs, ListenerHello: ours, Binding: h.binding}
	if err := h.judge(rw, t, roleDialer); err != nil {
		return salutation{}, h.refuse(rw, t, err)
	}
	if err := writeFrame(rw, t.encodeProof(h.keys.present, roleListener), h.salutation.encode()); err != nil {
		return salutation{}, hungUp(err)
	}
	return readSalutation(rw)
}

// judge reads the other end's proof. A member needs none: TLS has shown that it
// holds the key of its identity.
func (h handshake) judge(r io.Reader, t transcript, prover admissionRole) error {
	proof, err := readFrame(r)
	if err != nil {
		return hungUp(err)
	}
	proved, err := t.proves(proof, h.keys.present, prover)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotMuster, err)
	case h.standing == StandingRevoked:
		return ErrRevoked
	case h.standing == StandingMember || proved:
		return nil
	}
	for _, former := range h.keys.former {
		if proved, err := t.proves(proof, &former, prover); err == nil && proved {
			return &replacedError{key: former}
		}
	}
	return ErrNotProved
}

// replacedError is ErrTokenReplaced with the key that was proved.
type replacedError struct{ key [32]byte }

func (*replacedError) Error() string { return ErrTokenReplaced.Error() }
func (*replacedError) Unwrap() error { return ErrTokenReplaced }

// refuse tells a dialer that belonged here once why it does not now; a stranger
// is told nothing. It returns err.
func (h handshake) refuse(w io.Writer, t transcript, err error) error {
	var replaced *replacedError
	switch {
	case errors.As(err, &replaced):
		// Proved with the key that they know: who does not know it cannot send
		// the machines of a site away from it.
		_ = writeFrame(w, t.encodeProof(&replaced.key, roleListener), encodeRefusal(refusedToken))
	case errors.Is(err, ErrRevoked):
		_ = writeFrame(w, t.encodeProof(nil, roleListener), encodeRefusal(refusedIdentity))
	}
	return err // whether they heard it changes nothing
}

func readHello(r io.Reader, from admissionRole) ([]byte, error) {
	raw, err := readFrame(r)
	if err != nil {
		return nil, left(from.other(), err)
	}
	h, err := decodeHello(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotMuster, err)
	}
	if h.Role != from {
		return nil, fmt.Errorf("%w: hello of the wrong role", ErrNotMuster)
	}
	return raw, nil
}

func readSalutation(r io.Reader) (salutation, error) {
	raw, err := readFrame(r)
	if err != nil {
		return salutation{}, hungUp(err)
	}
	if err := decodeRefusal(raw); err != nil {
		return salutation{}, err
	}
	s, err := decodeSalutation(raw)
	if err != nil {
		return salutation{}, fmt.Errorf("%w: %w", ErrNotMuster, err)
	}
	return s, nil
}

// left reads the end of the stream before the other end's hello, as seen by ours.
func left(ours admissionRole, err error) error {
	if ours == roleListener && !errors.Is(err, errFrameTooLong) {
		return fmt.Errorf("%w: %w", errLeft, err)
	}
	return hungUp(err)
}

// hungUp reads the end of the stream before the greetings as what it means there.
func hungUp(err error) error {
	if errors.Is(err, errFrameTooLong) {
		return fmt.Errorf("%w: %w", ErrNotMuster, err)
	}
	return fmt.Errorf("%w: %w", ErrHungUp, err)
}
