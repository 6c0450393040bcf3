package p2p

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Gossip's pings are 170 bytes, mostly two names, and differ from the one before
// in a checksum and a counter. Packets on one stream are therefore sent as what
// differs from one of the few before: an idle site's bytes are pings.
//
// A packet is
//
//	size      uvarint
//	its bytes, when size is 0 or more than codedPacket; otherwise
//	base      1 byte: how many packets back the one is that it is compared
//	          with, 1 to codedHistory, or 0 for an empty one
//	then, until size is reached, (same, differ, bytes): that many bytes as in
//	the base at the same place, then that many given here; two uvarints
//
// Only packets that are coded count as packets before. What lies beyond the end
// of the base is never the same.
const (
	codedPacket  = 1 << 10
	codedHistory = 4
)

var errPacketCoding = errors.New("gossip packet: coding is wrong")

// packetHistory holds the newest coded packets of a stream, newest first.
type packetHistory [codedHistory][]byte

func (h *packetHistory) add(packet []byte) {
	oldest := h[codedHistory-1]
	copy(h[1:], h[:codedHistory-1])
	h[0] = append(oldest[:0], packet...)
}

// encode appends packet as it goes onto the stream.
func (h *packetHistory) encode(b, packet []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(packet)))
	if len(packet) == 0 || len(packet) > codedPacket {
		return append(b, packet...)
	}
	best := appendDifference([]byte{0}, nil, packet)
	for i, base := range h {
		if len(base) == 0 {
			continue
		}
		if coded := appendDifference([]byte{byte(i + 1)}, base, packet); len(coded) < len(best) {
			best = coded
		}
	}
	h.add(packet)
	return append(b, best...)
}

// sameAtLeast is how many equal bytes are worth the two that naming them costs.
const sameAtLeast = 3

func appendDifference(b, base, packet []byte) []byte {
	for at := 0; at < len(packet); {
		same := sameBytes(base, packet, at)
		end := at + same
		for end < len(packet) && sameBytes(base, packet, end) < sameAtLeast {
			end++
		}
		b = binary.AppendUvarint(b, uint64(same))
		b = binary.AppendUvarint(b, uint64(end-at-same))
		b = append(b, packet[at+same:end]...)
		at = end
	}
	return b
}

// sameBytes counts the bytes from at on that are the same in both.
func sameBytes(base, packet []byte, at int) int {
	n := 0
	for i := at; i < len(base) && i < len(packet) && base[i] == packet[i]; i++ {
		n++
	}
	return n
}

// decode reads a packet of at most limit bytes. An error at the end of a packet
// is io.EOF, in its middle io.ErrUnexpectedEOF.
func (h *packetHistory) decode(r *bufio.Reader, limit int) ([]byte, error) {
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if size > uint64(limit) {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", errPacketCoding, size, limit)
	}
	packet := make([]byte, size)
	if size == 0 || size > codedPacket {
		_, err := io.ReadFull(r, packet)
		return packet, unexpected(err)
	}
	back, err := r.ReadByte()
	if err != nil {
		return nil, unexpected(err)
	}
	if back > codedHistory {
		return nil, fmt.Errorf("%w: %d packets back", errPacketCoding, back)
	}
	var base []byte
	if back > 0 {
		base = h[back-1]
	}
	for at := 0; at < len(packet); {
		var n [2]uint64
		for i := range n {
			if n[i], err = binary.ReadUvarint(r); err != nil {
				return nil, unexpected(err)
			}
		}
		left := uint64(len(packet) - at)
		if n[0] > left || n[1] > left-n[0] || n[0]+n[1] == 0 || (n[0] > 0 && uint64(at)+n[0] > uint64(len(base))) {
			return nil, fmt.Errorf("%w: %d and %d bytes at %d of %d", errPacketCoding, n[0], n[1], at, size)
		}
		copy(packet[at:], base[min(at, len(base)):][:n[0]])
		at += int(n[0])
		if _, err := io.ReadFull(r, packet[at:at+int(n[1])]); err != nil {
			return nil, unexpected(err)
		}
		at += int(n[1])
	}
	h.add(packet)
	return packet, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
