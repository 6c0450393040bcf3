package node

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/muster-edge/muster/vpn"
)

func TestWhoClaimsAnothersKeyIsLeftOutAlone(t *testing.T) {
	key := func(n byte) wgtypes.Key { return wgtypes.Key{n} }
	node := func(id string, address string, k wgtypes.Key) vpn.Peer {
		return vpn.Peer{ID: id, PublicKey: k, Address: netip.MustParseAddr(address)}
	}
	self := key(1)
	a, b := node("a", "10.1.0.2", key(2)), node("b", "10.1.0.3", key(3))
	for _, test := range []struct {
		name          string
		peers, before []vpn.Peer
		kept          []vpn.Peer
		claims        []string
	}{
		{name: "everybody has a key", peers: []vpn.Peer{a, b}, kept: []vpn.Peer{a, b}},
		{
			name: "this node's key", peers: []vpn.Peer{a, node("b", "10.1.0.3", self)}, kept: []vpn.Peer{a},
			claims: []string{"node b claims this node's WireGuard key and is left out of the mesh: wipe its state directory"},
		},
		{
			name: "the later one is not believed", peers: []vpn.Peer{node("c", "10.1.0.4", key(2)), b, a}, kept: []vpn.Peer{b, a},
			claims: []string{"node c claims the WireGuard key of node a and is left out of the mesh: wipe its state directory"},
		},
		{
			name: "unless it had the key before", peers: []vpn.Peer{node("a", "10.1.0.2", key(3)), b}, before: []vpn.Peer{a, b}, kept: []vpn.Peer{b},
			claims: []string{"node a claims the WireGuard key of node b and is left out of the mesh: wipe its state directory"},
		},
		{name: "a key may change", peers: []vpn.Peer{node("a", "10.1.0.2", key(9)), b}, before: []vpn.Peer{a, b}, kept: []vpn.Peer{node("a", "10.1.0.2", key(9)), b}},
	} {
		t.Run(test.name, func(t *testing.T) {
			kept, claims := ownKeys(test.peers, test.before, self)
			require.Equal(t, test.kept, kept)
			require.Equal(t, test.claims, claims)
		})
	}
}
