package p2p

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// MaxFactSize is the longest body of a fact, in bytes. A fact travels to
	// every node whenever it changes, so it has to stay small.
	MaxFactSize = 8 << 10

	// A body of a later release is still passed on: the format below frames
	// it and knows nothing of what it says.
	factFormat       = 1
	factContext      = "muster fact 1"
	maxPeerIDSize    = 64
	maxSignatureSize = 128
	maxFactVersion   = 1 << 62 // room to go beyond, for ever
	maxEncodedFact   = MaxFactSize + maxPeerIDSize + maxSignatureSize + 32
)

// ErrBadFact is wrapped by every complaint about a malformed or forged fact.
var ErrBadFact = errors.New("bad fact")

// Fact is what one node says about itself. Body is JSON that this package
// passes on byte for byte.
type Fact struct {
	ID        peer.ID
	Version   uint64
	Body      []byte
	Signature []byte
}

// Verify checks sizes, that the body is JSON, and that the node itself signed
// this body with this version. Errors wrap [ErrBadFact].
func (f Fact) Verify() error {
	if err := f.checkSizes(); err != nil {
		return err
	}
	if !json.Valid(f.Body) {
		return fmt.Errorf("%w: body is not JSON", ErrBadFact)
	}
	if err := Verify(f.ID, factContext, f.message(), f.Signature); err != nil {
		return fmt.Errorf("%w: signature of %s: %v", ErrBadFact, f.ID, err)
	}
	return nil
}

func (f Fact) checkSizes() error {
	switch {
	case len(f.ID) == 0 || len(f.ID) > maxPeerIDSize:
		return fmt.Errorf("%w: peer ID of %d bytes", ErrBadFact, len(f.ID))
	case f.Version == 0 || f.Version > maxFactVersion:
		return fmt.Errorf("%w: version %d", ErrBadFact, f.Version)
	case len(f.Body) > MaxFactSize:
		return fmt.Errorf("%w: body of %d bytes, limit %d", ErrBadFact, len(f.Body), MaxFactSize)
	case len(f.Signature) == 0 || len(f.Signature) > maxSignatureSize:
		return fmt.Errorf("%w: signature of %d bytes", ErrBadFact, len(f.Signature))
	}
	return nil
}

// message is what the node signs; its ID is bound by the key.
func (f Fact) message() []byte {
	return append(binary.BigEndian.AppendUint64(nil, f.Version), f.Body...)
}

func (f Fact) equal(o Fact) bool {
	return f.ID == o.ID && f.Version == o.Version && bytes.Equal(f.Body, o.Body)
}

// MarshalBinary encodes the fact for the wire and the disk:
//
//	format 1, version (8 bytes, big endian), then peer ID, body and signature,
//	each after its length as an unsigned varint.
func (f Fact) MarshalBinary() ([]byte, error) {
	if err := f.checkSizes(); err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(f.ID)+len(f.Body)+len(f.Signature)+24)
	out = append(out, factFormat)
	out = binary.BigEndian.AppendUint64(out, f.Version)
	for _, field := range [][]byte{[]byte(f.ID), f.Body, f.Signature} {
		out = binary.AppendUvarint(out, uint64(len(field)))
		out = append(out, field...)
	}
	return out, nil
}

// UnmarshalBinary decodes what MarshalBinary wrote, and checks sizes but no
// signature. Errors wrap [ErrBadFact].
func (f *Fact) UnmarshalBinary(raw []byte) error {
	if len(raw) < 9 {
		return fmt.Errorf("%w: cut short", ErrBadFact)
	}
	if raw[0] != factFormat {
		return fmt.Errorf("%w: format %d, this node knows %d", ErrBadFact, raw[0], factFormat)
	}
	fact := Fact{Version: binary.BigEndian.Uint64(raw[1:9])}
	raw = raw[9:]
	var fields [3][]byte
	for i, limit := range [3]uint64{maxPeerIDSize, MaxFactSize, maxSignatureSize} {
		n, used := binary.Uvarint(raw)
		if used <= 0 || n > limit || n > uint64(len(raw)-used) {
			return fmt.Errorf("%w: field %d is too long or cut short", ErrBadFact, i+1)
		}
		fields[i], raw = bytes.Clone(raw[used:used+int(n)]), raw[used+int(n):]
	}
	if len(raw) > 0 {
		return fmt.Errorf("%w: %d bytes too many", ErrBadFact, len(raw))
	}
	id, err := peer.IDFromBytes(fields[0])
	if err != nil {
		return fmt.Errorf("%w: peer ID: %v", ErrBadFact, err)
	}
	fact.ID, fact.Body, fact.Signature = id, fields[1], fields[2]
	if err := fact.checkSizes(); err != nil {
		return err
	}
	*f = fact
	return nil
}

// encodeFacts joins facts, each after its length as an unsigned varint.
func encodeFacts(facts []Fact) ([]byte, error) {
	var out []byte
	for _, fact := range facts {
		raw, err := fact.MarshalBinary()
		if err != nil {
			return nil, err
		}
		out = binary.AppendUvarint(out, uint64(len(raw)))
		out = append(out, raw...)
	}
	return out, nil
}

// decodeFacts returns the facts before the first damage, and what the damage
// was.
func decodeFacts(raw []byte) ([]Fact, error) {
	var out []Fact
	for len(raw) > 0 {
		n, used := binary.Uvarint(raw)
		if used <= 0 || n > maxEncodedFact || n > uint64(len(raw)-used) {
			return out, fmt.Errorf("%w: list is cut short", ErrBadFact)
		}
		var fact Fact
		if err := fact.UnmarshalBinary(raw[used : used+int(n)]); err != nil {
			return out, err
		}
		out, raw = append(out, fact), raw[used+int(n):]
	}
	return out, nil
}
