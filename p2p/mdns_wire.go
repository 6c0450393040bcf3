package p2p

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/miekg/dns"
	"golang.org/x/crypto/chacha20poly1305"
)

// Nodes of one network find each other on a LAN with multicast DNS messages (RFC
// 6762) about one name that is derived from the token and the network_id: a
// question for its TXT record, and answers that carry one. The record is sealed,
// so that a stranger neither reads who is there nor can invent somebody: nonce
// (24) ‖ XChaCha20-Poly1305 of version (1) ‖ port (2) ‖ peer ID, with the name as
// additional data. The address is the one that the packet comes from, which can
// never be stale, and an answer is under 200 bytes on the wire.
const (
	mdnsVersion   = 1
	mdnsTTL       = 120  // seconds; nobody caches it
	maxMDNSPacket = 1500 // bytes
	maxMDNSPeerID = 64   // bytes
)

// mdnsCodec speaks the messages of one network.
type mdnsCodec struct {
	name  string // fully qualified, lower case
	seal  cipher.AEAD
	query []byte
}

// announcement is what an answer says.
type announcement struct {
	id   peer.ID
	port uint16
}

func newMDNSCodec(n Network) *mdnsCodec {
	key := n.Key("mdns")
	seal, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic("p2p: XChaCha20-Poly1305 with 32 bytes of key: " + err.Error())
	}
	c := &mdnsCodec{name: "_" + n.Label("mdns") + "._udp.local.", seal: seal}
	m := new(dns.Msg)
	m.Question = []dns.Question{{Name: c.name, Qtype: dns.TypeTXT, Qclass: dns.ClassINET}}
	c.query, err = m.Pack()
	if err != nil {
		panic("p2p: pack a question: " + err.Error()) // the name is ours and short
	}
	return c
}

func (c *mdnsCodec) announce(a announcement) ([]byte, error) {
	plain := append(binary.BigEndian.AppendUint16([]byte{mdnsVersion}, a.port), a.id...)
	nonce := make([]byte, c.seal.NonceSize(), c.seal.NonceSize()+len(plain)+c.seal.Overhead())
	rand.Read(nonce)
	sealed := c.seal.Seal(nonce, nonce, plain, []byte(c.name))
	if len(a.id) > maxMDNSPeerID {
		return nil, fmt.Errorf("announce: a peer ID of %d bytes", len(a.id))
	}
	m := new(dns.Msg)
	m.Response, m.Authoritative = true, true
	m.Answer = []dns.RR{&dns.TXT{
		Hdr: dns.RR_Header{Name: c.name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: mdnsTTL},
		Txt: []string{escapeTXT(sealed)},
	}}
	return m.Pack()
}

var errNotOurs = errors.New("of another network")

// read returns whether a packet asks for us, or else whom it announces. Packets
// of others, whole or not, are errors; on a LAN they are the most.
func (c *mdnsCodec) read(packet []byte) (asks bool, a announcement, err error) {
	if len(packet) > maxMDNSPacket {
		return false, announcement{}, errors.New("too long")
	}
	var m dns.Msg
	if err := m.Unpack(packet); err != nil {
		return false, announcement{}, err
	}
	if !m.Response {
		for _, q := range m.Question {
			if q.Qtype == dns.TypeTXT && strings.EqualFold(q.Name, c.name) {
				return true, announcement{}, nil
			}
		}
		return false, announcement{}, errNotOurs
	}
	for _, rr := range m.Answer {
		txt, ok := rr.(*dns.TXT)
		if !ok || !strings.EqualFold(txt.Hdr.Name, c.name) || len(txt.Txt) != 1 {
			continue
		}
		a, err := c.open(unescapeTXT(txt.Txt[0]))
		return false, a, err
	}
	return false, announcement{}, errNotOurs
}

func (c *mdnsCodec) open(sealed []byte) (announcement, error) {
	if len(sealed) < c.seal.NonceSize() {
		return announcement{}, errNotOurs
	}
	nonce, box := sealed[:c.seal.NonceSize()], sealed[c.seal.NonceSize():]
	plain, err := c.seal.Open(nil, nonce, box, []byte(c.name))
	if err != nil {
		return announcement{}, errNotOurs
	}
	if len(plain) < 3 || plain[0] < mdnsVersion {
		return announcement{}, errors.New("no announcement")
	}
	port := binary.BigEndian.Uint16(plain[1:])
	id, err := peer.IDFromBytes(plain[3:])
	if err != nil || port == 0 {
		return announcement{}, errors.New("no announcement")
	}
	return announcement{id: id, port: port}, nil
}

// escapeTXT writes bytes as the dns package wants them in its strings: as in a
// zone file, \DDD for what does not print.
func escapeTXT(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, `\%03d`, c)
	}
	return s.String()
}

// unescapeTXT is its inverse for every string that the dns package unpacks.
func unescapeTXT(s string) []byte {
	var b []byte
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			b = append(b, s[i])
		case i+3 < len(s) && isDigit(s[i+1]) && isDigit(s[i+2]) && isDigit(s[i+3]):
			b = append(b, (s[i+1]-'0')*100+(s[i+2]-'0')*10+(s[i+3]-'0'))
			i += 3
		case i+1 < len(s):
			b = append(b, s[i+1])
			i++
		}
	}
	return b
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
