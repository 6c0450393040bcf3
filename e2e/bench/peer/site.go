package peer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/muster-edge/muster/e2e/bench/lan"
	"github.com/muster-edge/muster/e2e/bench/procfs"
)

// site is what the peers that are started here (all but Muster, which brings its own lab) have in common: a LAN, at most
// one process per node, and a folder per node.
type site struct {
	name  string
	dir   string // for keys, configuration and logs; emptied by stop
	lan   *lan.LAN
	began time.Time

	processes []*lan.Process
}

func (s *site) open(ctx context.Context, nodes int) error {
	for i := 1; i <= nodes; i++ {
		if err := os.MkdirAll(s.folder(i), 0o700); err != nil {
			return fmt.Errorf("%s: make folder of node: %w", s.name, err)
		}
	}
	network, err := lan.New(ctx, s.name, nodes)
	if err != nil {
		return err
	}
	s.lan = network
	return nil
}

func (s *site) folder(node int) string { return filepath.Join(s.dir, fmt.Sprintf("n%d", node)) }

// run starts the node's process. Nothing of the driver's own environment reaches it but PATH.
func (s *site) run(node int, env []string, argv ...string) error {
	cmd := s.lan.Node(node).Command(context.Background(), argv...)
	cmd.Dir = s.folder(node)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.folder(node)}, env...)
	if s.began.IsZero() {
		s.began = time.Now()
	}
	process, err := lan.Start(fmt.Sprintf("%s node %d", s.name, node), cmd, filepath.Join(s.folder(node), "log"))
	if err != nil {
		return err
	}
	s.processes = append(s.processes, process)
	return nil
}

// alive returns how the first process that has ended did so.
func (s *site) alive() error {
	for i, process := range s.processes {
		if gone, err := process.Exited(); gone {
			return errors.Join(fmt.Errorf("process of node %d has ended", i+1), err)
		}
	}
	return nil
}

// join waits until every node's kernel has an address out of prefix.
func (s *site) join(ctx context.Context, prefix netip.Prefix) (Joined, error) {
	joined, err := await(ctx, s.began, func() ([]netip.Addr, error) {
		if err := s.alive(); err != nil {
			return nil, err
		}
		return s.owned(prefix)
	})
	if err != nil {
		return Joined{}, fmt.Errorf("%s: %w", s.name, err)
	}
	return joined, nil
}

func (s *site) owned(prefix netip.Prefix) ([]netip.Addr, error) {
	addresses := make([]netip.Addr, s.lan.Nodes())
	for i := range addresses {
		content, err := s.lan.Node(i + 1).Read("fib_trie")
		if err != nil {
			return nil, fmt.Errorf("read addresses of node %d: %w", i+1, err)
		}
		local, err := procfs.ParseLocalAddresses(content)
		if err != nil {
			return nil, fmt.Errorf("read addresses of node %d: %w", i+1, err)
		}
		for _, address := range local {
			if prefix.Contains(address) {
				addresses[i] = address
			}
		}
	}
	return addresses, nil
}

// Name implements Peer.
func (s *site) Name() string { return s.name }

// Command implements Peer.
func (s *site) Command(ctx context.Context, node int, argv ...string) *exec.Cmd {
	return s.lan.Node(node).Command(ctx, argv...)
}

// Process implements Peer.
func (s *site) Process(_ context.Context, node int) (int, error) {
	if len(s.processes) < node {
		return 0, ErrNoProcess
	}
	return s.processes[node-1].PID(), nil
}

// Stop implements Peer.
func (s *site) Stop() error {
	var failures []error
	for _, process := range s.processes {
		failures = append(failures, process.Stop())
	}
	s.processes, s.began = nil, time.Time{}
	if s.lan != nil {
		failures = append(failures, s.lan.Close())
	}
	return errors.Join(append(failures, os.RemoveAll(s.dir))...)
}

// numbered returns node's address in a prefix: the node's number in the last byte.
func numbered(prefix netip.Prefix, node int) netip.Addr {
	bytes := prefix.Addr().As4()
	bytes[3] = byte(node)
	return netip.AddrFrom4(bytes)
}

// output runs a helper program to its end and returns what it printed.
func output(cmd *exec.Cmd) ([]byte, error) {
	printed, err := cmd.Output()
	if err == nil {
		return printed, nil
	}
	err = fmt.Errorf("run %s: %w", filepath.Base(cmd.Path), err)
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, lan.Tail(append(printed, exit.Stderr...)))
	}
	return nil, err
}
