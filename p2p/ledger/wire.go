package ledger

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/libp2p/go-libp2p/core/protocol"
)

// Protocols of this package. What they carry is in docs/PROTOCOL.md.
const (
	ProtocolPropose = protocol.ID("/muster/propose/1")
	ProtocolFollow  = protocol.ID("/muster/follow/1")
	ProtocolEnrol   = protocol.ID("/muster/enrol/1")
	ProtocolSync    = protocol.ID("/muster/sync/1")
)

// ProtocolRaft names site and generation, so that a voter of a lower generation
// cannot even ask for a vote.
func ProtocolRaft(s Site) protocol.ID {
	return protocol.ID(fmt.Sprintf("/muster/raft/1/%s/%d", s.ID, s.Generation))
}

// maxMessage bounds a JSON message of this package: the largest holds a signed
// proposal in base64.
const maxMessage = 512 << 10

// writeMessage sends v as JSON with its length in front (unsigned varint).
func writeMessage(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeBlock(w, b)
}

// readMessage reads what writeMessage sent. Fields that this version does not
// know are ignored: the other side may be newer.
func readMessage(r *bufio.Reader, v any) error {
	b, err := readBlock(r, maxMessage)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// writeBlock makes one Write, so that a message is one packet.
func writeBlock(w io.Writer, b []byte) error {
	_, err := w.Write(appendBytes(make([]byte, 0, len(b)+binary.MaxVarintLen64), b))
	return err
}

func readBlock(r *bufio.Reader, limit int) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if n > uint64(limit) {
		return nil, fmt.Errorf("message of %d bytes, more than %d", n, limit)
	}
	// Grow as bytes arrive: the length is a claim of the other side.
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && uint64(len(b)) < n {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// closedByPeer says whether a read ended because the other side is done.
func closedByPeer(err error) bool { return errors.Is(err, io.EOF) }
