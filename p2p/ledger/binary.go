package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// errShort is what every decoder here returns for input that ends too early.
var errShort = errors.New("ends too early")

// reader takes apart the frozen binary encodings: unsigned varints (as
// encoding/binary, minimal form only) and byte strings that carry their length
// in front. The first error sticks, so that callers check once.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.rest = nil
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail(errShort)
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.rest)
	switch {
	case n == 0:
		r.fail(errShort)
		return 0
	case n < 0:
		r.fail(errors.New("number too large"))
		return 0
	case n > 1 && r.rest[n-1] == 0:
		// Two encodings of one value would let two signatures cover one
		// meaning, and make golden vectors ambiguous.
		r.fail(errors.New("number not in its shortest form"))
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// count reads a number of items, each at least one byte long.
func (r *reader) count(what string, limit int) int {
	n := r.uint()
	if r.err != nil {
		return 0
	}
	if n > uint64(limit) {
		r.fail(fmt.Errorf("%d %s, more than %d", n, what, limit))
		return 0
	}
	if n > uint64(len(r.rest)) {
		r.fail(errShort)
		return 0
	}
	return int(n)
}

// bytes returns a part of the input, not a copy.
func (r *reader) bytes(what string, limit int) []byte {
	n := r.count("bytes of "+what, limit)
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) fixed(n int) []byte {
	if len(r.rest) < n {
		r.fail(errShort)
		return make([]byte, n)
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		r.err = fmt.Errorf("%d bytes too many", len(r.rest))
	}
	return r.err
}

func appendBytes[T string | []byte](b []byte, v T) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}
