package node

import (
	"cmp"
	"fmt"
	"slices"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/muster-edge/muster/vpn"
)

// ownKeys leaves out the peers that claim a WireGuard key which is another's, and
// names them. Keys are facts, and anybody can write somebody else's key into its
// own: the device would then either refuse all peers or give one node's packets
// to the other. Who had the key before keeps it, else who came to the site first,
// which is who has the lower address.
func ownKeys(peers, before []vpn.Peer, self wgtypes.Key) (kept []vpn.Peer, claims []string) {
	held := func(p vpn.Peer) bool {
		return slices.ContainsFunc(before, func(b vpn.Peer) bool { return b.ID == p.ID && b.PublicKey == p.PublicKey })
	}
	holder := map[wgtypes.Key]string{}
	for _, p := range slices.SortedFunc(slices.Values(peers), func(a, b vpn.Peer) int {
		switch was := held(a); {
		case was == held(b):
			return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.ID, b.ID))
		case was:
			return -1
		}
		return 1
	}) {
		if _, taken := holder[p.PublicKey]; !taken {
			holder[p.PublicKey] = p.ID
		}
	}
	holder[self] = ""
	for _, p := range peers {
		switch owner := holder[p.PublicKey]; owner {
		case p.ID:
			kept = append(kept, p)
		case "":
			claims = append(claims, fmt.Sprintf("node %s claims this node's WireGuard key and is left out of the mesh: wipe its state directory", p.ID))
		default:
			claims = append(claims, fmt.Sprintf("node %s claims the WireGuard key of node %s and is left out of the mesh: wipe its state directory", p.ID, owner))
		}
	}
	return kept, claims
}
