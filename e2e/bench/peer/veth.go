package peer

import (
	"context"
	"net/netip"
)

// Veth is no VPN at all: what the bare link carries, which nothing on top can exceed.
type Veth struct{ site }

// NewVeth returns the bare link. dir is a folder of its own, removed by Stop.
func NewVeth(dir string) *Veth { return &Veth{site{name: "veth", dir: dir}} }

// Start implements Peer.
func (v *Veth) Start(ctx context.Context, nodes int) error { return v.open(ctx, nodes) }

// Addresses implements Peer.
func (v *Veth) Addresses(context.Context) ([]netip.Addr, error) {
	var addresses []netip.Addr
	for i := 1; i <= v.lan.Nodes(); i++ {
		addresses = append(addresses, v.lan.Node(i).Address())
	}
	return addresses, nil
}
