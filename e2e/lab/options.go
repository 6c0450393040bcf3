package lab

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// MaxNodes is how many nodes one lab can have: its share of the underlay is a /24 whose upper addresses belong to the switch.
const MaxNodes = 250

// Options describe a lab before it is up. The zero value of every field has a meaning, so Options{Nodes: 3, Config: c} is
// a whole lab.
type Options struct {
	// Dir holds all state of the lab; it is created, replaced by Up and removed by Down. Default: see [DefaultDir].
	Dir string
	// Nodes is how many nodes to start, n1 to nN. Default 1.
	Nodes int
	// Config is the cloud-config of every node, written to /oem/90_custom.yaml. None means an empty /oem.
	Config []byte
	// NodeConfig replaces Config for the nodes named.
	NodeConfig map[string][]byte
	// NAT puts the nodes named behind a router each.
	NAT map[string]NAT
	// Bridge, if set, names the bridge; labs that are up with the same name share one, as two sites on one LAN do.
	Bridge string
	// Binary is the muster binary, PID 1 and agent of every node. Default: the running executable.
	Binary string
	// NodeBinary is another muster in the nodes named, as a machine has that runs another version of its image. PID 1 stays Binary.
	NodeBinary map[string]string
	// K3s is the k3s binary that nodes find in /usr/local/bin, with kubectl beside it. None means that nodes have no k3s.
	K3s string
	// Env is added to the agent's environment, as KEY=VALUE.
	Env []string
	// Binds shows files or directories of the host read-only in every node: path in the node to path on the host.
	Binds map[string]string
	// OneByOne starts the next node only when the one before it answers; otherwise all agents start at the same instant.
	OneByOne bool
	// Until makes Up wait, for at most Timeout (default 5 minutes).
	Until   Until
	Timeout time.Duration
	// Progress receives one line for each change while waiting. Default: nowhere.
	Progress io.Writer
}

// DefaultDir is where a lab lives if nobody says otherwise: $MUSTER_LAB_DIR, else .cache/lab under the working directory.
func DefaultDir() string {
	if dir := os.Getenv("MUSTER_LAB_DIR"); dir != "" {
		return dir
	}
	return filepath.Join(".cache", "lab")
}

var bridgeName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,14}$`)

// complete fills in defaults and refuses combinations that cannot work, before anything is written.
func (o *Options) complete() error {
	if o.Dir == "" {
		o.Dir = DefaultDir()
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return fmt.Errorf("lab directory %q: %w", o.Dir, err)
	}
	o.Dir = dir
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	if o.Nodes < 0 || o.Nodes > MaxNodes {
		return fmt.Errorf("%w: %d nodes: a lab has 1 to %d", ErrUsage, o.Nodes, MaxNodes)
	}
	if o.Bridge != "" && !bridgeName.MatchString(o.Bridge) {
		return fmt.Errorf("%w: bridge %q: want a small letter, then up to 14 letters, digits or '-'", ErrUsage, o.Bridge)
	}
	// named refuses a setting of a node that there is not.
	named := func(what, name string) error {
		if n, ok := nodeNumber(name); !ok || n > o.Nodes {
			return fmt.Errorf("%w: %s %q: nodes are n1 to n%d", ErrUsage, what, name, o.Nodes)
		}
		return nil
	}
	for name := range o.NodeConfig {
		if err := named("configuration for", name); err != nil {
			return err
		}
	}
	for name, kind := range o.NAT {
		if err := named("NAT for", name); err != nil {
			return err
		}
		if !kind.valid() {
			return fmt.Errorf("%w: NAT of %s: %q is none of full, restricted, symmetric", ErrUsage, name, kind)
		}
	}
	if o.Binary == "" {
		if o.Binary, err = os.Executable(); err != nil {
			return fmt.Errorf("find the running binary: %w", err)
		}
	}
	if o.Binary, err = executable(o.Binary); err != nil {
		return fmt.Errorf("muster binary: %w", err)
	}
	o.NodeBinary = maps.Clone(o.NodeBinary) // the caller's stays as it is
	for name, path := range o.NodeBinary {
		if err := named("muster binary of", name); err != nil {
			return err
		}
		if o.NodeBinary[name], err = executable(path); err != nil {
			return fmt.Errorf("muster binary of %s: %w", name, err)
		}
	}
	if o.K3s != "" {
		if o.K3s, err = executable(o.K3s); err != nil {
			return fmt.Errorf("k3s binary: %w", err)
		}
	}
	for inside, outside := range o.Binds {
		if !filepath.IsAbs(inside) || !filepath.IsAbs(outside) {
			return fmt.Errorf("%w: bind %q to %q: want absolute paths", ErrUsage, outside, inside)
		}
	}
	if o.Until != "" && !o.Until.valid() {
		return fmt.Errorf("%w: until %q: want %s, %s or %s", ErrUsage, o.Until, UntilSeen, UntilRoles, UntilReady)
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Minute
	}
	if o.Timeout < 0 {
		return fmt.Errorf("%w: timeout %s: want a positive duration", ErrUsage, o.Timeout)
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	return nil
}

// executable returns path absolute and without symbolic links, so that it can be bound into a node.
func executable(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", fmt.Errorf("%w: %w", ErrUsage, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUsage, err)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%w: %s is not an executable file", ErrUsage, path)
	}
	return abs, nil
}

func nodeName(number int) string { return "n" + strconv.Itoa(number) }

// nodeNumber is the inverse of nodeName; ok is false for anything that nodeName does not produce.
func nodeNumber(name string) (number int, ok bool) {
	if len(name) < 2 || name[0] != 'n' {
		return 0, false
	}
	number, err := strconv.Atoi(name[1:])
	return number, err == nil && number >= 1 && number <= MaxNodes && nodeName(number) == name
}

// hostnameShape is a host name as RFC 1123 has it; a template is none.
var hostnameShape = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`)
