package p2p

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"
	"golang.org/x/crypto/chacha20poly1305"
)

// Nodes of one network find each other in a Kademlia DHT under a name that only
// who knows the token can compute, and that is another one every day, so that
// whoever stores it cannot follow a network for longer. Clocks may be wrong: the
// names of yesterday and tomorrow are looked for too.
const rendezvousWindow = 24 * time.Hour

// rendezvousName is the content ID under which nodes are found, as many windows
// from now as that.
func rendezvousName(n Network, now time.Time, window int) cid.Cid {
	number := now.Unix()/int64(rendezvousWindow/time.Second) + int64(window)
	sum := sha256.Sum256(n.expand("label", "dht "+strconv.FormatInt(number, 10), 32))
	hash, err := multihash.Encode(sum[:], multihash.SHA2_256)
	if err != nil {
		panic("p2p: multihash of SHA-256: " + err.Error())
	}
	return cid.NewCidV1(cid.Raw, hash)
}

// What the DHT leads to is a throw-away host, which tells everybody who asks the
// same thing: nonce (24) ‖ XChaCha20-Poly1305 of version (1) ‖ peers, as in the
// exchange of peers, and of these one, the node itself. A stranger cannot read it.
const (
	rendezvousVersion   = 1
	maxRendezvousRecord = 4096
)

var rendezvousContext = []byte("muster rendezvous v1")

func rendezvousSeal(n Network) cipher.AEAD {
	key := n.Key("dht")
	seal, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic("p2p: XChaCha20-Poly1305 with 32 bytes of key: " + err.Error())
	}
	return seal
}

func sealRendezvous(n Network, self peer.AddrInfo) []byte {
	seal := rendezvousSeal(n)
	self.Addrs = boundAddrs(self.Addrs)
	plain := append([]byte{rendezvousVersion}, encodeExchange([]peer.AddrInfo{self})...)
	nonce := make([]byte, seal.NonceSize(), seal.NonceSize()+len(plain)+seal.Overhead())
	rand.Read(nonce)
	return seal.Seal(nonce, nonce, plain, rendezvousContext)
}

func openRendezvous(n Network, raw []byte) (peer.AddrInfo, error) {
	seal := rendezvousSeal(n)
	if len(raw) > maxRendezvousRecord || len(raw) < seal.NonceSize() {
		return peer.AddrInfo{}, errNotOurs
	}
	plain, err := seal.Open(nil, raw[:seal.NonceSize()], raw[seal.NonceSize():], rendezvousContext)
	if err != nil {
		return peer.AddrInfo{}, errNotOurs
	}
	return decodeRendezvous(plain)
}

func decodeRendezvous(plain []byte) (peer.AddrInfo, error) {
	if len(plain) < 1 || plain[0] < rendezvousVersion {
		return peer.AddrInfo{}, errors.New("rendezvous: no record")
	}
	infos, err := decodeExchange(plain[1:])
	if err != nil {
		return peer.AddrInfo{}, fmt.Errorf("rendezvous: %w", err)
	}
	if len(infos) != 1 {
		return peer.AddrInfo{}, fmt.Errorf("rendezvous: %d peers where one speaks of itself", len(infos))
	}
	return infos[0], nil
}
