package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/p2p"
)

// state is what DIR/lab.json remembers between two commands.
type state struct {
	Version   int               `json:"version"`
	BootID    string            `json:"boot_id"` // of the host: after its reboot no process recorded here exists
	Bridge    string            `json:"bridge"`
	Shared    bool              `json:"shared"`
	Subnet    int               `json:"subnet"` // the x of 172.30.x.0/24
	Binary    string            `json:"binary"`
	K3s       string            `json:"k3s,omitempty"`
	Env       []string          `json:"env,omitempty"`
	Binds     map[string]string `json:"binds,omitempty"`
	Switch    process           `json:"switch"`
	Nodes     []*node           `json:"nodes"`
	Partition [][]string        `json:"partition,omitempty"`
	OneWay    bool              `json:"one_way,omitempty"` // the partition: later groups reach earlier ones
}

// node is one machine of the lab.
type node struct {
	Name         string        `json:"name"`
	Number       int           `json:"number"`
	Hardware     string        `json:"hardware"` // stands for the DMI UUID: survives wipes and reboots
	Init         process       `json:"init"`     // its PID 1; zero when the power is off
	NAT          NAT           `json:"nat,omitempty"`
	Router       process       `json:"router,omitzero"` // stays on when the node is off
	Cut          bool          `json:"cut,omitempty"`
	Loss         float64       `json:"loss,omitempty"`   // percent, each way
	Drop         Direction     `json:"drop,omitempty"`   // the direction in which everything is lost
	Delay        time.Duration `json:"delay,omitempty"`  // each way
	Slow         process       `json:"slow,omitzero"`    // carries the frames of a link with a delay
	Binary       string        `json:"binary,omitempty"` // its muster, if it is not the lab's
	Lease        int           `json:"lease,omitempty"`  // the host part of its address, if it is not its number
	AgentStarted time.Time     `json:"agent_started"`
}

// addr is the node's on the switch.
func (n *node) addr(subnet int) netip.Addr { return subnetAddr(subnet, cmp.Or(n.Lease, n.Number)) }

const stateVersion = 1

func (s *state) node(name string) (*node, error) {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("%w: no node %q: this lab has n1 to %s", ErrUsage, name, nodeName(len(s.Nodes)))
}

// pick returns the nodes named, all of them if none is.
func (s *state) pick(names []string) ([]*node, error) {
	if len(names) == 0 {
		return slices.Clone(s.Nodes), nil
	}
	var picked []*node
	for _, name := range names {
		n, err := s.node(name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(picked, n) {
			picked = append(picked, n)
		}
	}
	return picked, nil
}

// loadState reads DIR/lab.json; ErrNotUp if there is none.
func loadState(dir string) (*state, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s: start one with `muster lab up`", ErrNotUp, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read lab state: %w", err)
	}
	var s state
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("read lab state %s/lab.json: %w (`muster lab down` removes it)", dir, err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("read lab state %s/lab.json: version %d, this muster writes %d (`muster lab down` removes it)", dir, s.Version, stateVersion)
	}
	if s.BootID != bootID() {
		s.Switch = process{}
		for _, n := range s.Nodes {
			n.Init, n.Router, n.Slow = process{}, process{}, process{}
		}
	}
	return &s, nil
}

func (s *state) save(dir string) error {
	s.Version, s.BootID = stateVersion, bootID()
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write lab state: %w", err)
	}
	if err := p2p.WriteFile(filepath.Join(dir, "lab.json"), raw, 0o600); err != nil {
		return fmt.Errorf("write lab state: %w", err)
	}
	return nil
}

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // a kernel without it: PIDs are then told apart by start time alone
	}
	return strings.TrimSpace(string(raw))
}

// lock is held by whoever changes a lab; two commands on one directory take turns.
type lock struct{ file *os.File }

// lockDir waits for the lock of dir until ctx ends. The directory is created if create is set.
func lockDir(ctx context.Context, dir string, create bool) (*lock, error) {
	if create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("create lab directory: %w", err)
		}
	}
	path := filepath.Join(dir, "lock")
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) && !create {
				return nil, fmt.Errorf("%w in %s: start one with `muster lab up`", ErrNotUp, dir)
			}
			return nil, fmt.Errorf("lock lab: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		// Down removes the lock file while it holds it: a lock on a file that has no name any more protects nothing.
		if err == nil && sameFile(f, path) {
			return &lock{f}, nil
		}
		_ = f.Close() // nothing was written
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("lock lab: %w", err)
		}
		if err != nil {
			if perr := pause(ctx, pollInterval); perr != nil {
				return nil, fmt.Errorf("another lab command is at work in %s: %w", dir, perr)
			}
		}
	}
}

func (l *lock) release() { _ = l.file.Close() } // closing drops the lock, and nothing was written

func sameFile(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(have, named)
}
