package lab

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// LinkChange is what to do to a node's cable; a nil field is left as it is.
type LinkChange struct {
	Down  *bool          // true pulls the cable: the node sees the loss of carrier
	Loss  *float64       // percent of the frames that get lost, each way, each drawn on its own
	Delay *time.Duration // of every frame, each way
	Drop  *Direction     // everything in this direction is lost; the link stays up
}

// Direction is seen from the node.
type Direction string

const (
	DropNone Direction = ""
	DropIn   Direction = "in"
	DropOut  Direction = "out"
)

// maxDelay bounds a link's delay: longer ones would only fill the queue.
const maxDelay = 10 * time.Second

// Link changes the link of a node.
func (l *Lab) Link(ctx context.Context, name string, change LinkChange) error {
	if change.Delay != nil && (*change.Delay < 0 || *change.Delay > maxDelay) {
		return fmt.Errorf("%w: delay of %s: want 0 to %s", ErrUsage, *change.Delay, maxDelay)
	}
	if change.Drop != nil && *change.Drop != DropNone && *change.Drop != DropIn && *change.Drop != DropOut {
		return fmt.Errorf("%w: drop %q: want in, out or none", ErrUsage, *change.Drop)
	}
	if change.Loss != nil && (*change.Loss < 0 || *change.Loss > 100) {
		return fmt.Errorf("%w: loss of %g percent: want 0 to 100", ErrUsage, *change.Loss)
	}
	return l.change(ctx, func(s *state) error {
		n, err := s.node(name)
		if err != nil {
			return err
		}
		if change.Loss != nil {
			n.Loss = *change.Loss
		}
		if change.Drop != nil {
			n.Drop = *change.Drop
		}
		if change.Delay != nil && *change.Delay != n.Delay {
			n.Delay = *change.Delay
			if n.Init.alive() { // else it counts when the node boots
				if err := l.slowDown(ctx, s, n); err != nil {
					return err
				}
			}
		}
		if err := s.writeFilter(); err != nil {
			return err
		}
		if change.Down == nil {
			return nil
		}
		n.Cut = *change.Down
		if !n.Init.alive() {
			return nil // counts when it boots
		}
		h, err := s.netlink()
		if err != nil {
			return err
		}
		defer h.Close()
		port := portName(s.Subnet, n.Number)
		if !n.Cut {
			return linkUp(h, port)
		}
		link, err := h.LinkByName(port)
		if err == nil {
			err = h.LinkSetDown(link)
		}
		if err != nil {
			return fmt.Errorf("pull the cable of %s: %w", name, err)
		}
		return nil
	})
}

// Partition cuts the switch: a node reaches those of its own group, and nodes in no group reach everybody. It replaces an
// earlier partition. Nodes that are off, or reboot, stay in their group.
func (l *Lab) Partition(ctx context.Context, groups ...[]string) error {
	return l.partition(ctx, false, groups)
}

// CutOneWay cuts the switch in one direction: a group's frames do not reach the later groups, and theirs arrive. It replaces an
// earlier partition.
func (l *Lab) CutOneWay(ctx context.Context, groups ...[]string) error {
	return l.partition(ctx, true, groups)
}

func (l *Lab) partition(ctx context.Context, oneWay bool, groups [][]string) error {
	if len(groups) < 2 {
		return fmt.Errorf("%w: a partition has two groups or more", ErrUsage)
	}
	return l.change(ctx, func(s *state) error {
		seen := map[string]bool{}
		for _, group := range groups {
			if len(group) == 0 {
				return fmt.Errorf("%w: a group of the partition is empty", ErrUsage)
			}
			for _, name := range group {
				if _, err := s.node(name); err != nil {
					return err
				}
				if seen[name] {
					return fmt.Errorf("%w: %s is in the partition twice", ErrUsage, name)
				}
				seen[name] = true
			}
		}
		s.Partition, s.OneWay = groups, oneWay
		return s.writeFilter()
	})
}

// Heal ends the partition, every loss and every delay, and plugs in every cable.
func (l *Lab) Heal(ctx context.Context) error {
	return l.change(ctx, func(s *state) error {
		s.Partition, s.OneWay = nil, false
		for _, n := range s.Nodes {
			n.Loss, n.Drop = 0, DropNone
			if n.Delay == 0 {
				continue
			}
			n.Delay = 0
			if n.Init.alive() {
				if err := l.slowDown(ctx, s, n); err != nil {
					return err
				}
			}
		}
		if err := s.writeFilter(); err != nil {
			return err
		}
		h, err := s.netlink()
		if err != nil {
			return err
		}
		defer h.Close()
		for _, n := range s.Nodes {
			n.Cut = false
			if !n.Init.alive() {
				continue
			}
			if err := linkUp(h, portName(s.Subnet, n.Number)); err != nil {
				return err
			}
		}
		return nil
	})
}

// ParsePartition reads the command line's form of a partition: groups separated by '|', nodes by ','.
func ParsePartition(text string) ([][]string, error) {
	var groups [][]string
	for part := range strings.SplitSeq(text, "|") {
		var group []string
		for name := range strings.SplitSeq(part, ",") {
			name = strings.TrimSpace(name)
			if _, ok := nodeNumber(name); !ok {
				return nil, fmt.Errorf("%w: partition %q: %q is not a node; want n1,n2|n3", ErrUsage, text, name)
			}
			group = append(group, name)
		}
		groups = append(groups, group)
	}
	if len(groups) < 2 {
		return nil, fmt.Errorf("%w: partition %q: want two groups or more, as in n1,n2|n3", ErrUsage, text)
	}
	return groups, nil
}
