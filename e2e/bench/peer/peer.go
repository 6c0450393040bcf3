// Package peer drives the networks that are measured side by side: the bare link, plain wireguard-go, Nebula, EdgeVPN,
// and Muster. The measurements know only the Peer interface.
package peer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"time"
)

// Peer is one way to join machines that share a LAN. Nodes are counted from 1.
type Peer interface {
	// Name is what the tables call it.
	Name() string

	// Start starts all nodes at once and returns when they run, which is before they are joined. After an error Stop
	// must still be called.
	Start(ctx context.Context, nodes int) error

	// Join waits until every node has its place on the mesh: an address, no two the same, and for Muster a role too. An
	// error says why there is no point in waiting longer, or that ctx has ended.
	Join(ctx context.Context) (Joined, error)

	// Command prepares a command that runs on a node.
	Command(ctx context.Context, node int, argv ...string) *exec.Cmd

	// Process returns the process ID, as seen from the host, of the node's agent; ErrNoProcess where there is none.
	Process(ctx context.Context, node int) (int, error)

	// Stop ends all nodes and removes what was made for them. It does not depend on the context given to Start, and it
	// may be called twice.
	Stop() error
}

// Goroutines is implemented by a Peer that can say how many goroutines a node's agent has.
type Goroutines interface {
	Goroutines(ctx context.Context, node int) (int, error)
}

// ErrNoProcess says that a peer is done by the kernel alone.
var ErrNoProcess = errors.New("no process")

// Joined is a site whose nodes all have their place.
type Joined struct {
	Addresses []netip.Addr  // of n1, n2, … on the mesh
	Took      time.Duration // since the first of them was started
}

// Interval is how often a peer is asked whether its nodes are joined: the resolution of the figures of convergence.
const Interval = 100 * time.Millisecond

// await asks every Interval until every node has an address and no two have the same. When ctx ends first, the error names
// the nodes without one.
func await(ctx context.Context, began time.Time, ask func() ([]netip.Addr, error)) (Joined, error) {
	var joined Joined
	err := until(ctx, Interval, func() (bool, error) {
		addresses, err := ask()
		if err != nil {
			return false, err
		}
		joined = Joined{Addresses: addresses, Took: time.Since(began)}
		return complete(addresses), nil
	})
	if err != nil {
		return Joined{}, fmt.Errorf("wait until every node is joined: %w (%s)", err, missing(joined.Addresses))
	}
	return joined, nil
}

func complete(addresses []netip.Addr) bool {
	holders := map[netip.Addr]bool{}
	for _, address := range addresses {
		if !address.IsValid() || holders[address] {
			return false
		}
		holders[address] = true
	}
	return len(addresses) > 0
}

func missing(addresses []netip.Addr) string {
	var without []int
	for i, address := range addresses {
		if !address.IsValid() {
			without = append(without, i+1)
		}
	}
	if len(without) == 0 && len(addresses) > 0 {
		return "every node has an address, some the same"
	}
	return fmt.Sprintf("%d nodes known, without address: %v", len(addresses), without)
}

// until calls done, at once and then every interval, until it says true or fails, or ctx ends.
func until(ctx context.Context, interval time.Duration, done func() (bool, error)) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
