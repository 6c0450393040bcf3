package ledger

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Raft's heartbeats are 350 bytes, mostly names, and each is the same as the
// one before. A delta stream sends only what differs from the previous write,
// which makes a heartbeat three bytes: at two per second and voter that is the
// difference between a mesh that is idle and one that is not.
//
// Each write becomes frames of at most deltaMax bytes:
//
//	prefix, suffix: how many bytes are as in the previous frame, from its
//	                beginning and up to its end
//	n, n bytes:     what is between them
//
// with prefix, suffix and n as unsigned varints.
const deltaMax = 64 << 10

type deltaWriter struct {
	mu   sync.Mutex
	w    io.Writer
	last []byte
	buf  []byte
}

func (d *deltaWriter) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.buf = d.buf[:0]
	for rest := p; len(rest) > 0; {
		chunk := rest[:min(len(rest), deltaMax)]
		rest = rest[len(chunk):]
		d.buf = appendDelta(d.buf, d.last, chunk)
		d.last = append(d.last[:0], chunk...)
	}
	if _, err := d.w.Write(d.buf); err != nil {
		return 0, err
	}
	return len(p), nil
}

func appendDelta(b, last, next []byte) []byte {
	limit := min(len(last), len(next))
	prefix := 0
	for prefix < limit && last[prefix] == next[prefix] {
		prefix++
	}
	suffix := 0
	for suffix < limit-prefix && last[len(last)-1-suffix] == next[len(next)-1-suffix] {
		suffix++
	}
	b = binary.AppendUvarint(b, uint64(prefix))
	b = binary.AppendUvarint(b, uint64(suffix))
	return appendBytes(b, next[prefix:len(next)-suffix])
}

type deltaReader struct {
	r    *bufio.Reader
	last []byte
	rest []byte // of last, not yet handed out
	err  error
}

func (d *deltaReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(d.rest) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		if err := d.next(); err != nil {
			d.err = err
			return 0, err
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

func (d *deltaReader) next() error {
	var head [3]uint64
	for i := range head {
		v, err := binary.ReadUvarint(d.r)
		if err != nil {
			if i > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if v > deltaMax {
			return fmt.Errorf("delta stream: %d is more than %d", v, deltaMax)
		}
		head[i] = v
	}
	prefix, suffix, n := int(head[0]), int(head[1]), int(head[2])
	if prefix+suffix > len(d.last) || prefix+suffix+n > deltaMax {
		return fmt.Errorf("delta stream: %d+%d bytes of a frame that had %d", prefix, suffix, len(d.last))
	}
	next := make([]byte, prefix+n+suffix)
	copy(next, d.last[:prefix])
	if _, err := io.ReadFull(d.r, next[prefix:prefix+n]); err != nil {
		return err
	}
	copy(next[prefix+n:], d.last[len(d.last)-suffix:])
	d.last, d.rest = next, next
	return nil
}
