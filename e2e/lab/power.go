package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Kill cuts the power of the nodes named, all if none is: every process of a node ends by SIGKILL, and what it wrote to its
// persistent directories stays. A node that is off stays off.
func (l *Lab) Kill(ctx context.Context, names ...string) error {
	return l.change(ctx, func(s *state) error {
		nodes, err := s.pick(names)
		if err != nil {
			return err
		}
		return s.powerOff(ctx, nodes)
	})
}

func (s *state) powerOff(ctx context.Context, nodes []*node) error {
	cuts, ctx := errgroup.WithContext(ctx)
	for _, n := range nodes {
		cuts.Go(func() error {
			if err := n.Init.kill(ctx); err != nil {
				return fmt.Errorf("power off %s: %w", n.Name, err)
			}
			if err := n.Slow.kill(ctx); err != nil {
				return fmt.Errorf("end the slow link of %s: %w", n.Name, err)
			}
			n.Init, n.Slow = process{}, process{}
			return s.unplug(n)
		})
	}
	return cuts.Wait()
}

// Signal sends sig to every process of a node but its PID 1. SIGKILL is a power cut, see [Lab.Kill].
func (l *Lab) Signal(ctx context.Context, name string, sig unix.Signal) error {
	if sig == unix.SIGKILL {
		return l.Kill(ctx, name)
	}
	_, n, err := l.find(name)
	if err != nil {
		return err
	}
	_, err = l.ask(ctx, n, request{Op: opSignalAll, Signal: int(sig)})
	return err
}

// KillAgent sends sig to a node's agent alone; everything else in the node goes on. If the signal ends the agent, [Lab.Start]
// starts it again.
func (l *Lab) KillAgent(ctx context.Context, name string, sig unix.Signal) error {
	_, n, err := l.find(name)
	if err != nil {
		return err
	}
	_, err = l.ask(ctx, n, request{Op: opSignalAgent, Signal: int(sig)})
	if err != nil || sig != unix.SIGKILL {
		return err
	}
	// So that a Start that follows is not answered with the agent that is about to end.
	for {
		answer, err := l.ask(ctx, n, request{Op: opStatus})
		if err != nil || answer.Agent == 0 {
			return err
		}
		if err := pause(ctx, pollInterval/10); err != nil {
			return fmt.Errorf("%s: wait for the agent to end: %w", name, err)
		}
	}
}

// Start gives the nodes named, all if none is, power if they have none, and starts their agents if they do not run.
func (l *Lab) Start(ctx context.Context, names ...string) error {
	return l.change(ctx, func(s *state) error {
		nodes, err := s.pick(names)
		if err != nil {
			return err
		}
		return l.powerOn(ctx, s, nodes)
	})
}

// Restart cuts the power of the nodes named, all if none is, and gives it back when all are off.
func (l *Lab) Restart(ctx context.Context, names ...string) error {
	return l.change(ctx, func(s *state) error {
		nodes, err := s.pick(names)
		if err != nil {
			return err
		}
		if err := s.powerOff(ctx, nodes); err != nil {
			return err
		}
		return l.powerOn(ctx, s, nodes)
	})
}

// SetBinary gives nodes another muster from their next start on, as a machine that boots another version of its image has; the
// lab's own again if path is empty.
func (l *Lab) SetBinary(ctx context.Context, path string, names ...string) error {
	if path != "" {
		var err error
		if path, err = executable(path); err != nil {
			return err
		}
	}
	return l.change(ctx, func(s *state) error {
		nodes, err := s.pick(names)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			n.Binary = path
		}
		return nil
	})
}

// SwapAddrs cuts the power of two nodes, and each starts next with the address that the other had, as from a DHCP server that has
// forgotten its leases.
func (l *Lab) SwapAddrs(ctx context.Context, a, b string) error {
	return l.change(ctx, func(s *state) error {
		nodes, err := s.pick([]string{a, b})
		if err != nil {
			return err
		}
		if len(nodes) != 2 || nodes[0].NAT != NATNone || nodes[1].NAT != NATNone {
			return fmt.Errorf("%w: swap addresses: of two nodes without routers", ErrUsage)
		}
		if err := s.powerOff(ctx, nodes); err != nil {
			return err
		}
		one, other := nodes[0], nodes[1]
		one.Lease, other.Lease = cmp.Or(other.Lease, other.Number), cmp.Or(one.Lease, one.Number)
		return nil
	})
}

// Wipe cuts the power of the nodes named and empties all their persistent directories but /oem, as a reset does. The nodes stay
// off; their hardware stays the same.
func (l *Lab) Wipe(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return fmt.Errorf("%w: wipe: name at least one node", ErrUsage)
	}
	return l.change(ctx, func(s *state) error {
		nodes, err := s.pick(names)
		if err != nil {
			return err
		}
		if err := s.powerOff(ctx, nodes); err != nil {
			return err
		}
		for _, n := range nodes {
			if err := l.wipe(n.Name); err != nil {
				return err
			}
		}
		return nil
	})
}

// CloneState makes to's persistent directories a copy of from's, as a copied disk would be: configuration, state and identity,
// but other hardware. The node to is off afterwards; from is copied as it stands, running or not.
func (l *Lab) CloneState(ctx context.Context, from, to string) error {
	return l.change(ctx, func(s *state) error {
		source, err := s.node(from)
		if err != nil {
			return err
		}
		target, err := s.node(to)
		if err != nil {
			return err
		}
		if source == target {
			return fmt.Errorf("%w: clone %s onto itself", ErrUsage, from)
		}
		if err := s.powerOff(ctx, []*node{target}); err != nil {
			return err
		}
		for _, d := range persistent {
			path := filepath.Join(l.nodeDir(to), d.name)
			err := errors.Join(os.RemoveAll(path), copyTree(filepath.Join(l.nodeDir(from), d.name), path))
			if err != nil {
				return fmt.Errorf("clone %s to %s: %w", from, to, err)
			}
		}
		return nil
	})
}

func (l *Lab) wipe(name string) error {
	for _, d := range persistent {
		if d.name == "oem" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(l.nodeDir(name), d.name)); err != nil {
			return fmt.Errorf("wipe %s: %w", name, err)
		}
	}
	return makeNodeDir(l.nodeDir(name))
}
