// Package convergence measures how long a number of nodes, started at once, take until every one of them has its place.
package convergence

import (
	"context"
	"fmt"
	"time"

	"github.com/muster-edge/muster/e2e/bench/peer"
)

// limit is how long a peer may take for each node; EdgeVPN takes about 10 s, one node after another.
const limit = 30 * time.Second

// Measure starts a peer's nodes and returns how long it took from the start of the first process until every node had its
// place. The nodes are left running, joined or not: the caller stops the peer.
func Measure(ctx context.Context, p peer.Peer, nodes int) (time.Duration, error) {
	if err := p.Start(ctx, nodes); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(nodes)*limit)
	defer cancel()
	joined, err := p.Join(ctx)
	if err != nil {
		return 0, err
	}
	if len(joined.Addresses) != nodes {
		return 0, fmt.Errorf("%s: %d nodes were joined, want %d", p.Name(), len(joined.Addresses), nodes)
	}
	return joined.Took, nil
}
