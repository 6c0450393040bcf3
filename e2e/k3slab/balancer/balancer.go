// Package balancer is an agent's local TCP load balancer over the servers: the
// kubelet talks to 127.0.0.1:6444 and survives the loss of the server through
// which its node joined.
package balancer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/muster-edge/muster/e2e/k3slab/pki"
)

// dialTimeout is how long one server may take to answer before the next is
// tried; K3s' health checks are of the same order.
const dialTimeout = 2 * time.Second

// acceptRetry is the pause after a connection could not be accepted.
const acceptRetry = 100 * time.Millisecond

// Balancer forwards each connection to the first server that answers.
type Balancer struct {
	listener net.Listener
	state    string
	conns    sync.WaitGroup

	mu      sync.Mutex
	servers []string
	open    map[net.Conn]struct{} // nil once closed
}

// Listen starts a balancer on addr. first is the server that the node was told
// of; others are remembered in the state file from an earlier run.
func Listen(addr, first, state string) (*Balancer, error) {
	servers := []string{first}
	remembered, err := load(state)
	if err != nil {
		// The file is a cache: a node must not stay down over it.
		slog.Warn("ignoring the load balancer's state", "error", err)
	}
	for _, s := range remembered {
		if !slices.Contains(servers, s) {
			servers = append(servers, s)
		}
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for the load balancer: %w", err)
	}
	b := &Balancer{listener: l, state: state, servers: servers, open: map[net.Conn]struct{}{}}
	b.conns.Go(b.accept)
	return b, nil
}

// Addr is the address that it listens on.
func (b *Balancer) Addr() net.Addr { return b.listener.Addr() }

// Servers returns the servers in the order in which they are tried.
func (b *Balancer) Servers() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.servers)
}

// Update replaces the servers and remembers them. The one in use stays first, or
// last when the list lacks it: a server that was away for a moment is in no list,
// and the others may be gone. An empty list is ignored: it would cut the node off
// for good.
func (b *Balancer) Update(servers []string) error {
	if len(servers) == 0 {
		return nil
	}
	b.mu.Lock()
	next := slices.Clone(servers)
	switch i := slices.Index(next, b.servers[0]); {
	case i > 0:
		next[0], next[i] = next[i], next[0]
	case i < 0:
		next = append(next, b.servers[0])
	}
	changed := !slices.Equal(next, b.servers)
	b.servers = next
	b.mu.Unlock()
	if !changed {
		return nil
	}
	content, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode the load balancer's state: %w", err)
	}
	return pki.WriteFile(b.state, content, 0o600)
}

// Follow updates the servers from fetch until ctx ends.
func (b *Balancer) Follow(ctx context.Context, every time.Duration, fetch func(context.Context) ([]string, error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		servers, err := fetch(ctx)
		if err == nil {
			err = b.Update(servers)
		}
		if err != nil && ctx.Err() == nil {
			slog.Warn("refreshing the load balancer's servers", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Close ends every connection and waits for their goroutines.
func (b *Balancer) Close() error {
	err := b.listener.Close()
	b.mu.Lock()
	for conn := range b.open {
		conn.Close()
	}
	b.open = nil
	b.mu.Unlock()
	b.conns.Wait()
	return err
}

func (b *Balancer) accept() {
	for {
		conn, err := b.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of file descriptors, as a rule. Without this loop connections
			// would be taken by the kernel and never answered.
			slog.Warn("accepting for the load balancer", "error", err)
			time.Sleep(acceptRetry)
			continue
		}
		b.conns.Go(func() { b.serve(conn) })
	}
}

func (b *Balancer) serve(client net.Conn) {
	if !b.track(client) {
		return
	}
	defer b.untrack(client)
	for _, addr := range b.Servers() {
		server, err := net.DialTimeout("tcp", addr, dialTimeout)
		if err != nil {
			b.demote(addr)
			continue
		}
		if !b.track(server) {
			return
		}
		defer b.untrack(server)
		b.conns.Go(func() { forward(server, client) })
		forward(client, server)
		return
	}
}

// forward copies until either end is gone and then closes both, which ends the
// copy in the other direction too.
func forward(to, from net.Conn) {
	// An error is the ordinary end of a connection.
	_, _ = io.Copy(to, from)
	to.Close()
	from.Close()
}

// demote tries an unreachable server last from now on.
func (b *Balancer) demote(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.servers) > 1 && b.servers[0] == addr {
		b.servers = append(b.servers[1:], addr)
	}
}

func (b *Balancer) track(conn net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		conn.Close()
		return false
	}
	b.open[conn] = struct{}{}
	return true
}

func (b *Balancer) untrack(conn net.Conn) {
	conn.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, conn)
}

func load(path string) ([]string, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var servers []string
	if err := json.Unmarshal(content, &servers); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return servers, nil
}
