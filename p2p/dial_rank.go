package p2p

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"
)

// tcpPatience is how long QUIC is tried alone. A connection lasts for weeks, and
// over TCP an idle one costs about three times the bytes (keepalives, and an
// acknowledgement of its own for every message); where UDP is blocked this much
// is lost once. go-libp2p's own 30 ms on a LAN are less than a handshake takes
// on a box that has just been switched on.
const tcpPatience = 2 * time.Second

// relayPatience is how long a peer is tried without the help of others. What a
// relay carries is paid for three times: at both ends and in the middle.
const relayPatience = 2 * tcpPatience

// quicFirst ranks addresses as go-libp2p does, and holds TCP and relays back where
// there is QUIC.
func quicFirst(addrs []multiaddr.Multiaddr) []network.AddrDelay {
	ranked := swarm.DefaultDialRanker(addrs)
	if !slices.ContainsFunc(addrs, isQUIC) {
		return ranked
	}
	for i := range ranked {
		switch {
		case isCircuit(ranked[i].Addr):
			ranked[i].Delay += relayPatience
		case !isQUIC(ranked[i].Addr):
			ranked[i].Delay += tcpPatience
		}
	}
	return ranked
}

func isQUIC(addr multiaddr.Multiaddr) bool {
	_, err := addr.ValueForProtocol(multiaddr.P_QUIC_V1)
	return err == nil
}
