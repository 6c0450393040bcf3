package vpn

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/curve25519"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// A probe is one datagram between two WireGuard ports that asks "do packets pass
// here, both ways?", or answers it. WireGuard drops it: its messages begin with
// 1, 2, 3 or 4. Whoever does not hold the key of one of the two ends can neither
// make a probe nor tell whose it is. Layout (docs/PROTOCOL.md):
//
//	magic      4 bytes, "mstr"
//	version    1 byte, 1
//	kind       1 byte: 1 ping, 2 pong
//	zero       2 bytes
//	id         8 bytes: who of which pair of nodes speaks
//	tx         8 bytes, random; a pong repeats the ping's
//	observed  18 bytes: in a pong, address and port that the ping came from
//	mac       16 bytes: HMAC-SHA256 over all before, cut
const (
	probeSize    = 58
	probeVersion = 1
	probeMACAt   = probeSize - 16
)

var probeMagic = [4]byte{'m', 's', 't', 'r'}

type probeKind byte

const (
	ping probeKind = 1
	pong probeKind = 2
)

// probeID names the speaker to the one other node that can know it.
type probeID [8]byte

type probe struct {
	kind     probeKind
	id       probeID
	tx       uint64
	observed netip.AddrPort // of a pong
}

// probeKeys are what two nodes have in common by their WireGuard keys.
type probeKeys struct {
	secret []byte
	ours   probeID // what we say
	theirs probeID // what they say
}

func newProbeKeys(private, peer wgtypes.Key) (probeKeys, error) {
	shared, err := curve25519.X25519(private[:], peer[:])
	if err != nil {
		return probeKeys{}, fmt.Errorf("probe key: %w", err) // a peer's key of low order
	}
	self := private.PublicKey()
	first, second := self, peer
	if bytes.Compare(first[:], second[:]) > 0 {
		first, second = second, first
	}
	secret, err := hkdf.Key(sha256.New, shared, nil, "muster path probe v1"+string(first[:])+string(second[:]), 32)
	if err != nil {
		return probeKeys{}, fmt.Errorf("probe key: %w", err)
	}
	id := func(speaker wgtypes.Key) probeID {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte("speaker"))
		mac.Write(speaker[:])
		return probeID(mac.Sum(nil)[:8])
	}
	return probeKeys{secret: secret, ours: id(self), theirs: id(peer)}, nil
}

func (k probeKeys) mac(head []byte) []byte {
	mac := hmac.New(sha256.New, k.secret)
	mac.Write(head)
	return mac.Sum(nil)[:probeSize-probeMACAt]
}

// encode returns the probe as this end says it.
func (k probeKeys) encode(p probe) []byte {
	b := make([]byte, 0, probeSize)
	b = append(b, probeMagic[:]...)
	b = append(b, probeVersion, byte(p.kind), 0, 0)
	b = append(b, k.ours[:]...)
	b = binary.BigEndian.AppendUint64(b, p.tx)
	var observed [16]byte
	if p.observed.IsValid() {
		observed = p.observed.Addr().As16()
	}
	b = append(b, observed[:]...)
	b = binary.BigEndian.AppendUint16(b, p.observed.Port())
	return append(b, k.mac(b)...)
}

var errNoProbe = errors.New("no probe")

// decodeProbe reads a probe without believing it: the id says whose key verify
// needs.
func decodeProbe(b []byte) (probe, error) {
	if len(b) != probeSize || [4]byte(b[:4]) != probeMagic || b[4] != probeVersion {
		return probe{}, errNoProbe
	}
	p := probe{kind: probeKind(b[5]), id: probeID(b[8:16]), tx: binary.BigEndian.Uint64(b[16:24])}
	switch {
	case p.kind != ping && p.kind != pong, b[6] != 0, b[7] != 0:
		return probe{}, errNoProbe
	case p.kind == pong:
		p.observed = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])).Unmap(), binary.BigEndian.Uint16(b[40:42]))
	}
	return p, nil
}

// verify tells whether the other end of this pair said it.
func (k probeKeys) verify(b []byte) bool {
	return len(b) == probeSize && [8]byte(b[8:16]) == k.theirs && hmac.Equal(b[probeMACAt:], k.mac(b[:probeMACAt]))
}
