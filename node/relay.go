package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/p2p"
)

// DefaultRelayDir keeps a relay's identity; it is not a node's, since a machine
// may be both.
const DefaultRelayDir = "/usr/local/.muster-relay"

// RelayOptions are what main gives a relay.
type RelayOptions struct {
	// Config says which network it serves: token and network_id. Nothing else of
	// it counts.
	Config   *config.Config
	StateDir string
	// Port is UDP and TCP; 0 takes one that is free for both.
	Port   int
	Listen []netip.Addr
	// Ready is called once with the relay's peer ID, when it can be reached.
	Ready func(id string)
	Log   *slog.Logger
}

// RunRelay is a host without a role, until ctx ends: it tells nodes of one
// network where the others are, and relays between those that cannot reach each
// other. It is never a member, holds no decisions, and reads nothing of what it
// carries.
func RunRelay(ctx context.Context, opts RelayOptions) (err error) {
	if opts.StateDir == "" {
		opts.StateDir = DefaultRelayDir
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	token, err := p2p.ParseToken(opts.Config.P2P.NetworkToken.Reveal())
	if err != nil {
		return fmt.Errorf("p2p.network_token: %w", err)
	}
	network := token.Network(opts.Config.P2P.NetworkID)
	lock, err := lockRunDir(opts.StateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	hardware, err := p2p.ReadHardware()
	if err != nil {
		return fmt.Errorf("read hardware: %w", err)
	}
	identity, _, err := p2p.OpenIdentity(filepath.Join(opts.StateDir, "relay"), hardware)
	if err != nil {
		return err
	}
	host, err := p2p.NewHost(p2p.HostConfig{Identity: identity, Network: network, Port: opts.Port, Listen: opts.Listen, Log: opts.Log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	// Other relays of the token are found, so that nodes at one are told of those
	// at the other.
	discovery, err := p2p.StartDiscovery(p2p.DiscoveryConfig{
		Host: host, Network: network, Bootstrap: opts.Config.P2P.Bootstrap, DHT: dhtConfig(opts.Config.P2P, opts.Listen), Log: opts.Log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, discovery.Close()) }()
	opts.Log.Info("relay is up", LogNode, identity.ID().String())
	if opts.Ready != nil {
		opts.Ready(identity.ID().String())
	}
	<-ctx.Done()
	return nil
}

// dhtConfig is nil where a node keeps away from the DHT.
func dhtConfig(c config.P2P, listen []netip.Addr) *p2p.DHTConfig {
	if c.DisableDHT {
		return nil
	}
	return &p2p.DHTConfig{Bootstrap: c.DHTBootstrap, Listen: listen}
}
