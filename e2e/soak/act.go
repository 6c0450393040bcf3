package soak

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/e2e/lab"
)

// act does one random thing, holds it up for a while and ends it. It returns what it did.
func (s *soak) act(ctx context.Context) (string, error) {
	s.actions++
	names, err := s.Nodes()
	if err != nil {
		return "", err
	}
	one := names[s.rand.IntN(len(names))]
	hold := time.Duration(1+s.rand.IntN(20)) * time.Second
	act := actions[s.rand.IntN(len(actions))]
	what, err := act(s, ctx, one, hold)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	return what, nil
}

type action func(s *soak, ctx context.Context, node string, hold time.Duration) (string, error)

// actions are chosen with the same chance each.
var actions = []action{cutPower, cutPower, killAgent, restart, blackout, freeze, freeze, split, split, cutOneWay, cable, flap, disturb, disturb, add, wipe, replace, rotate, revoke, fillDisk}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// during keeps a fault up between do and undo.
func during(ctx context.Context, hold time.Duration, do, undo func() error) error {
	if err := do(); err != nil {
		return err
	}
	if err := wait(ctx, hold); err != nil {
		return err
	}
	return undo()
}

func cutPower(s *soak, ctx context.Context, node string, hold time.Duration) (string, error) {
	return fmt.Sprintf("no power on %s for %s", node, hold), during(ctx, hold,
		func() error { return s.Kill(ctx, node) }, func() error { return s.Start(ctx, node) })
}

func killAgent(s *soak, ctx context.Context, node string, hold time.Duration) (string, error) {
	return fmt.Sprintf("no agent on %s for %s", node, hold), during(ctx, hold,
		func() error { return s.KillAgent(ctx, node, unix.SIGKILL) }, func() error { return s.Start(ctx, node) })
}

func restart(s *soak, ctx context.Context, node string, _ time.Duration) (string, error) {
	return "restart of " + node, s.Restart(ctx, node)
}

func blackout(s *soak, ctx context.Context, _ string, hold time.Duration) (string, error) {
	return fmt.Sprintf("blackout for %s", hold), during(ctx, hold,
		func() error { return s.Kill(ctx) }, func() error { return s.Start(ctx) })
}

func freeze(s *soak, ctx context.Context, node string, hold time.Duration) (string, error) {
	return fmt.Sprintf("%s frozen for %s", node, hold), during(ctx, hold,
		func() error { return s.Signal(ctx, node, unix.SIGSTOP) }, func() error { return s.Signal(ctx, node, unix.SIGCONT) })
}

// groups splits the nodes into two that are not empty.
func (s *soak) groups() ([][]string, error) {
	names, err := s.Nodes()
	if err != nil {
		return nil, err
	}
	s.rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	at := 1 + s.rand.IntN(len(names)-1)
	return [][]string{names[:at], names[at:]}, nil
}

func spell(groups [][]string) string {
	parts := make([]string, len(groups))
	for i, g := range groups {
		parts[i] = strings.Join(g, ",")
	}
	return strings.Join(parts, "|")
}

func split(s *soak, ctx context.Context, _ string, hold time.Duration) (string, error) {
	groups, err := s.groups()
	if err != nil {
		return "partition", err
	}
	return fmt.Sprintf("partition %s for %s", spell(groups), 2*hold), during(ctx, 2*hold,
		func() error { return s.Partition(ctx, groups...) }, func() error { return s.Heal(ctx) })
}

func cutOneWay(s *soak, ctx context.Context, _ string, hold time.Duration) (string, error) {
	groups, err := s.groups()
	if err != nil {
		return "one-way cut", err
	}
	return fmt.Sprintf("one-way cut %s for %s", spell(groups), 2*hold), during(ctx, 2*hold,
		func() error { return s.CutOneWay(ctx, groups...) }, func() error { return s.Heal(ctx) })
}

func cable(s *soak, ctx context.Context, node string, hold time.Duration) (string, error) {
	out, in := true, false
	return fmt.Sprintf("cable of %s out for %s", node, hold), during(ctx, hold,
		func() error { return s.Link(ctx, node, lab.LinkChange{Down: &out}) },
		func() error { return s.Link(ctx, node, lab.LinkChange{Down: &in}) })
}

func flap(s *soak, ctx context.Context, node string, _ time.Duration) (string, error) {
	what := "cable of " + node + " out and in ten times"
	for range 10 {
		if _, err := cable(s, ctx, node, time.Second); err != nil {
			return what, err
		}
		if err := wait(ctx, time.Second); err != nil {
			return what, err
		}
	}
	return what, nil
}

func disturb(s *soak, ctx context.Context, node string, hold time.Duration) (string, error) {
	loss, delay := float64(5+s.rand.IntN(26)), time.Duration(10+s.rand.IntN(191))*time.Millisecond
	return fmt.Sprintf("%s loses %g %% and delays by %s for %s", node, loss, delay, 2*hold), during(ctx, 2*hold,
		func() error { return s.Link(ctx, node, lab.LinkChange{Loss: &loss, Delay: &delay}) },
		func() error { return s.Heal(ctx) })
}

func add(s *soak, ctx context.Context, node string, hold time.Duration) (string, error) {
	names, err := s.Nodes()
	if err != nil || len(names) >= maxNodes {
		what, failed := restart(s, ctx, node, hold)
		return what, failed
	}
	added, err := s.Add(ctx, 1)
	if err != nil {
		return "another node", err
	}
	return "another node", s.reconfigure(ctx, added[0], func() error { return s.Restart(ctx, added[0]) })
}

// reconfigure gives a node the site's present token, which a newcomer needs, and starts it.
func (s *soak) reconfigure(ctx context.Context, node string, start func() error) error {
	if err := s.Configure(ctx, node, s.config()); err != nil {
		return err
	}
	return start()
}

// roles are a node's row, and a master beside it.
func (s *soak) roles(ctx context.Context, node string) (row lab.NodeStatus, master string, err error) {
	rows, err := s.Status(ctx)
	for _, r := range rows {
		switch {
		case r.Node == node:
			row = r
		case strings.HasPrefix(r.Role, "master"):
			master = r.Node
		}
	}
	return row, master, err
}

// replace loses a master, and an operator gives its place to a worker.
func replace(s *soak, ctx context.Context, node string, hold time.Duration) (string, error) {
	row, master, err := s.roles(ctx, node)
	if err != nil || !strings.HasPrefix(row.Role, "master") {
		return cutPower(s, ctx, node, hold)
	}
	what := node + " replaced by an operator"
	if err := s.Kill(ctx, node); err != nil {
		return what, err
	}
	if _, err := s.Exec(ctx, master, "muster", "node", "replace", row.Hostname, "--yes"); err != nil {
		return what, err
	}
	return what, s.Start(ctx, node)
}

// rotate replaces the token.
func rotate(s *soak, ctx context.Context, node string, _ time.Duration) (string, error) {
	_, master, err := s.roles(ctx, node)
	if err != nil {
		return "token", err
	}
	out, err := s.Exec(ctx, master, "muster", "token", "rotate")
	if err == nil {
		s.token = strings.TrimSpace(out)
	}
	return "token replaced", err
}

// revoke throws a worker out, and lets the machine in again as a new node.
func revoke(s *soak, ctx context.Context, node string, hold time.Duration) (string, error) {
	row, master, err := s.roles(ctx, node)
	if err != nil || row.Role != "worker" {
		return freeze(s, ctx, node, hold)
	}
	what := node + " revoked and let in anew"
	out, err := s.Exec(ctx, master, "muster", "node", "revoke", row.Hostname, "--reason", "soak")
	if err != nil {
		return what, err
	}
	s.token = strings.TrimSpace(out)
	return what, s.anew(ctx, node)
}

// anew gives a node an empty disk, and the token that a newcomer needs.
func (s *soak) anew(ctx context.Context, node string) error {
	if err := s.Wipe(ctx, node); err != nil {
		return err
	}
	return s.reconfigure(ctx, node, func() error { return s.Start(ctx, node) })
}

// wipe gives a worker an empty disk, twice at most: what it was stays a member until somebody removes it.
func wipe(s *soak, ctx context.Context, node string, hold time.Duration) (string, error) {
	rows, err := s.Status(ctx)
	if err != nil {
		return "wipe", err
	}
	for _, row := range rows {
		if row.Node == node && row.Role == "worker" && s.wiped < 2 {
			s.wiped++
			return "empty disk for " + node, s.anew(ctx, node)
		}
	}
	return killAgent(s, ctx, node, hold)
}

// fillDisk gives a node's state a small file system, fills it, and makes room again.
func fillDisk(s *soak, ctx context.Context, node string, hold time.Duration) (string, error) {
	what := fmt.Sprintf("full disk on %s for %s", node, hold)
	move := func(script string) error {
		if err := s.KillAgent(ctx, node, unix.SIGKILL); err != nil {
			return err
		}
		if _, err := s.Exec(ctx, node, "/bin/sh", "-ec", script); err != nil {
			return err
		}
		return s.Start(ctx, node)
	}
	if err := move(`mkdir /tmp/small
mount -t tmpfs -o size=32m tmpfs /tmp/small
cp -a /usr/local/.muster/. /tmp/small/
mount --bind /tmp/small /usr/local/.muster`); err != nil {
		return what, err
	}
	if err := wait(ctx, 5*time.Second); err != nil {
		return what, err
	}
	if _, err := s.Exec(ctx, node, "/bin/sh", "-c", "dd if=/dev/zero of=/usr/local/.muster/rubbish bs=4k 2>/dev/null; true"); err != nil {
		return what, err
	}
	if err := wait(ctx, hold); err != nil {
		return what, err
	}
	return what, move(`rm /tmp/small/rubbish
umount /usr/local/.muster
rm -rf /usr/local/.muster/* /usr/local/.muster/.[!.]*
cp -a /tmp/small/. /usr/local/.muster/
umount /tmp/small
rmdir /tmp/small`)
}
