// Package convergence measures how long a number of nodes, started at once, take until every one of them has its place.
package convergence

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/muster-edge/muster/e2e/bench/peer"
)

// Result is what was measured.
type Result struct {
	Took      time.Duration // from the start of the first process to the moment the last node was seen to be joined
	Addresses []netip.Addr
}

// limit is how long a peer may take for each node; EdgeVPN takes about 10 s, one node after another.
const limit = 30 * time.Second

// Measure starts a peer's nodes and waits for them. They are left running, joined or not: the caller stops the peer.
func Measure(ctx context.Context, p peer.Peer, nodes int) (Result, error) {
	if err := p.Start(ctx, nodes); err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(nodes)*limit)
	defer cancel()
	joined, addresses, err := peer.Await(ctx, p)
	if err != nil {
		return Result{}, err
	}
	started, err := p.Started()
	if err != nil {
		return Result{}, fmt.Errorf("measure time until %d nodes are joined: %w", nodes, err)
	}
	return Result{Took: joined.Sub(started), Addresses: addresses}, nil
}
