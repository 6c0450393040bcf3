package vpn

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// look returns the configuration that was applied last, and what the device says
// of each of its peers.
func (v *VPN) look() (Config, map[wgtypes.Key]deviceView, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	current, err := v.control.Device(v.name)
	if err != nil {
		return Config{}, nil, fmt.Errorf("read VPN device %s: %w", v.name, err)
	}
	views := make(map[wgtypes.Key]deviceView, len(current.Peers))
	for _, p := range current.Peers {
		views[p.PublicKey] = deviceView{endpoint: endpointOf(p), handshake: p.LastHandshakeTime, received: p.ReceiveBytes, sent: p.TransmitBytes}
	}
	return v.applied, views, nil
}

// Two handshakes that cross leave both ends with half of each, which WireGuard mends
// only after seconds; and finding a path makes both ends begin at the same moment. So
// the end with the smaller key leads, and the other gives it time.
const (
	// leaderGrace is also what a handshake that is under way gets: the answer to it
	// would be lost to a peer that was made anew, and WireGuard takes no other from the
	// same peer within 20 ms.
	leaderGrace   = 250 * time.Millisecond
	followerGrace = time.Second // four ways of the worst of links
)

// leads tells whether this node begins the handshakes with a peer.
func (v *VPN) leads(peer wgtypes.Key) bool {
	own := v.applied.PrivateKey.PublicKey()
	return bytes.Compare(own[:], peer[:]) < 0
}

// direct makes the device send a peer's packets to an endpoint. Where there is no
// handshake yet, insist has to be called after the time that it returns, else zero.
func (v *VPN) direct(ctx context.Context, p Peer, to netip.AddrPort) (grace time.Duration, err error) {
	v.mu.Lock()
	grace, err = v.directLocked(p, to)
	v.mu.Unlock()
	if err == nil && grace != followerGrace {
		knock(ctx, p.Address)
	}
	return grace, err
}

func (v *VPN) directLocked(p Peer, to netip.AddrPort) (grace time.Duration, err error) {
	was, waits, err := v.waits(p)
	if err != nil {
		return 0, err
	}
	leads := v.leads(p.PublicKey)
	if waits && leads && was != to {
		return leaderGrace, v.remake(p, to)
	}
	err = v.control.ConfigureDevice(v.name, wgtypes.Config{Peers: []wgtypes.PeerConfig{
		{PublicKey: p.PublicKey, UpdateOnly: true, Endpoint: net.UDPAddrFromAddrPort(to)},
	}})
	switch {
	case err != nil:
		return 0, fmt.Errorf("set endpoint of %s: %w", p.ID, err)
	case !waits:
		return 0, nil
	case leads:
		return leaderGrace, nil
	}
	return followerGrace, nil
}

// insist begins another handshake with a peer that is still without one.
func (v *VPN) insist(ctx context.Context, p Peer, to netip.AddrPort) error {
	v.mu.Lock()
	was, waits, err := v.waits(p)
	again := err == nil && waits && was == to
	if again {
		err = v.remake(p, to)
	}
	v.mu.Unlock()
	if again {
		knock(ctx, p.Address)
	}
	return err
}

// renew makes a peer anew that had a session, and begins a handshake with it.
func (v *VPN) renew(ctx context.Context, p Peer) error {
	v.mu.Lock()
	to, waits, err := v.waits(p)
	if err == nil && !waits && to.IsValid() {
		err = v.remake(p, to)
	}
	v.mu.Unlock()
	if err == nil {
		knock(ctx, p.Address)
	}
	return err
}

// waits tells whether the device has a peer without a handshake, and the peer's endpoint.
func (v *VPN) waits(p Peer) (endpoint netip.AddrPort, waits bool, err error) {
	current, err := v.control.Device(v.name)
	if err != nil {
		return endpoint, false, fmt.Errorf("read VPN device %s: %w", v.name, err)
	}
	for _, c := range current.Peers {
		if c.PublicKey == p.PublicKey {
			return endpointOf(c), c.LastHandshakeTime.IsZero(), nil
		}
	}
	return endpoint, false, nil
}

// remake makes a peer anew.
func (v *VPN) remake(p Peer, to netip.AddrPort) error {
	if err := v.control.ConfigureDevice(v.name, wgtypes.Config{Peers: anew(p, to)}); err != nil {
		return fmt.Errorf("make peer %s anew: %w", p.ID, err)
	}
	return nil
}

// hold keeps Probe away from a peer whose path is known.
func (v *VPN) hold(key wgtypes.Key, held bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if held {
		v.held[key] = true
	} else {
		delete(v.held, key)
	}
}

// port is where WireGuard listens.
func (v *VPN) port() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.applied.Port
}
