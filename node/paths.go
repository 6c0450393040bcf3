package node

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/vpn"
)

// packetsProtocol carries packets of the data plane to a member that cannot be
// reached directly (docs/PROTOCOL.md).
const packetsProtocol protocol.ID = "/muster/packets/1"

// carrier is the mesh's control plane as the data plane's last resort.
type carrier struct{ host *p2p.Host }

func (c carrier) Reaches(id string) bool {
	p, err := peer.Decode(id)
	return err == nil && c.host.Reaches(p)
}

func (c carrier) Open(ctx context.Context, id string) (io.WriteCloser, error) {
	p, err := peer.Decode(id)
	if err != nil {
		return nil, fmt.Errorf("open a relay: %w", err)
	}
	return c.host.Open(network.WithNoDial(ctx, "packets of the VPN are not worth a dial"), p, packetsProtocol)
}

// openPaths begins to look for ways to the peers of the device.
func (a *Agent) openPaths(v *vpn.VPN) (*vpn.Paths, error) {
	paths, err := vpn.StartPaths(vpn.PathsConfig{VPN: v, Carrier: carrier{a.host}, Changed: a.changed.Notify, Log: a.log})
	if err != nil {
		return nil, err
	}
	a.host.Handle(packetsProtocol, p2p.AccessMember, func(s network.Stream) {
		id := s.Conn().RemotePeer().String()
		if err := paths.Serve(id, s); err != nil {
			a.log.Debug("relayed packets", LogPeer, id, LogError, err)
		}
		_ = s.Reset() // nothing is ever said back
	})
	return paths, nil
}

// path says how packets reach a mesh address; direct and relay only once
// WireGuard has shaken hands.
func (m *mesh) path(address string) Path {
	at, err := netip.ParseAddr(address)
	if m == nil || err != nil {
		return PathNone
	}
	return Path(m.paths.Of(at))
}
