package vpn

import (
	"fmt"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// DefaultPort is the UDP port that WireGuard listens on unless told otherwise.
const DefaultPort = 51820

// overhead is what WireGuard adds to a packet in the worst case: IPv6 header
// 40, UDP 8, WireGuard 32 bytes.
const overhead = 80

// minMTU is what IPv6 asks of any link (RFC 8200 §5); below it a tunnel that
// carries a Kubernetes overlay is of no use.
const minMTU = 1280

// Peer is another node of the mesh, as facts and decisions describe it.
type Peer struct {
	// ID names the node in logs and status.
	ID string
	// PublicKey is the node's WireGuard key (a fact).
	PublicKey wgtypes.Key
	// Address is the node's mesh address (a decision), and all that packets
	// from it may claim to come from.
	Address netip.Addr
	// Candidates are the endpoints where the node may be reachable, best first.
	Candidates []netip.AddrPort
	// Own are those of them that are addresses of the node itself: what is reached
	// elsewhere has a router before it. None means not known.
	Own []netip.AddrPort
}

// Config is everything that Apply makes true. The zero value of a field that
// has a default takes it.
type Config struct {
	PrivateKey wgtypes.Key
	// Port is the UDP port to listen on; DefaultPort if 0.
	Port int
	// Address is this node's mesh address with the length of the site's range,
	// so that the kernel routes the whole range into the device.
	Address netip.Prefix
	// MTU of the device in bytes; if 0, MTUFor the smallest link that leads out.
	MTU   int
	Peers []Peer
}

func (c Config) validate() error {
	switch {
	case c.PrivateKey == wgtypes.Key{}:
		return fmt.Errorf("configure VPN: no private key")
	case !c.Address.IsValid():
		return fmt.Errorf("configure VPN: no mesh address")
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("configure VPN: port %d is not between 0 and 65535", c.Port)
	}
	addresses := map[netip.Addr]string{c.Address.Addr(): "this node"}
	keys := map[wgtypes.Key]string{c.PrivateKey.PublicKey(): "this node"}
	for _, p := range c.Peers {
		if !c.Address.Contains(p.Address) {
			return fmt.Errorf("configure VPN: address %s of peer %s is outside of %s", p.Address, p.ID, c.Address.Masked())
		}
		if other, taken := addresses[p.Address]; taken {
			return fmt.Errorf("configure VPN: address %s of peer %s belongs to %s already", p.Address, p.ID, other)
		}
		if other, taken := keys[p.PublicKey]; taken {
			return fmt.Errorf("configure VPN: key of peer %s belongs to %s already", p.ID, other)
		}
		addresses[p.Address], keys[p.PublicKey] = p.ID, p.ID
	}
	return nil
}

// MTUFor returns the MTU of a tunnel over a link with the given MTU in bytes.
func MTUFor(link int) int {
	return max(link-overhead, minMTU)
}

// PeerStatus is what the device knows of a peer.
type PeerStatus struct {
	ID      string
	Address netip.Addr
	// Endpoint is where packets for the peer go now; invalid when nowhere.
	Endpoint netip.AddrPort
	// LastHandshake is the zero time when there never was one. WireGuard makes
	// a new one every two minutes, but only while there is traffic.
	LastHandshake            time.Time
	ReceivedBytes, SentBytes int64
}
