package peer

import "context"

// Veth is no VPN at all: what the bare link carries, which nothing on top can exceed.
type Veth struct{ site }

// NewVeth returns the bare link. dir is a folder of its own, removed by Stop.
func NewVeth(dir string) *Veth { return &Veth{site{name: "veth", dir: dir}} }

// Start implements Peer.
func (v *Veth) Start(ctx context.Context, nodes int) error { return v.open(ctx, nodes) }

// Join implements Peer: the bare link is there as soon as it is built.
func (v *Veth) Join(context.Context) (Joined, error) {
	var joined Joined
	for i := 1; i <= v.lan.Nodes(); i++ {
		joined.Addresses = append(joined.Addresses, v.lan.Node(i).Address())
	}
	return joined, nil
}
