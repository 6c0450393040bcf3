package lab

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sync/errgroup"
	"gopkg.in/yaml.v3"

	"github.com/muster-edge/muster/p2p"
)

// Lab is one lab, up or not. Its state is on disk, so any number of Labs, in any number of processes, can stand for the same
// directory. Methods are safe for concurrent use.
type Lab struct {
	dir  string
	opts Options
}

// New returns a lab that [Lab.Up] will bring up. It checks the options and touches nothing.
func New(opts Options) (*Lab, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	return &Lab{dir: opts.Dir, opts: opts}, nil
}

// Open returns the lab that is up in dir (empty: [DefaultDir]); ErrNotUp if there is none.
func Open(dir string) (*Lab, error) {
	l, err := At(dir)
	if err != nil {
		return nil, err
	}
	if _, err := loadState(l.dir); err != nil {
		return nil, err
	}
	return l, nil
}

// At returns the lab in dir whether one is up or not; it is for [Lab.Down], which works on half a lab as well.
func At(dir string) (*Lab, error) {
	if dir == "" {
		dir = DefaultDir()
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("lab directory %q: %w", dir, err)
	}
	return &Lab{dir: abs}, nil
}

// Dir is where the lab keeps everything.
func (l *Lab) Dir() string { return l.dir }

func (l *Lab) nodeDir(name string) string { return filepath.Join(l.dir, "nodes", name) }

// NodeDir is the directory of the host that holds what the node keeps: oem, usr-local, var-lib-rancher and so on.
func (l *Lab) NodeDir(name string) string { return l.nodeDir(name) }

// bootParallelism bounds how many nodes boot side by side: a boot is mostly mounting and copying, and labs run on small machines.
const bootParallelism = 4

// Up takes down whatever lab is in the directory, starts a new one, and waits as Options.Until says. On ErrTimeout and any
// other error what is up stays up, for a look at it; Down removes it.
func (l *Lab) Up(ctx context.Context) error {
	held, err := lockDir(ctx, l.dir, true)
	if err != nil {
		return err
	}
	err = l.build(ctx)
	held.release()
	if err != nil {
		return fmt.Errorf("lab up: %w", err)
	}
	if l.opts.Until == "" {
		return nil
	}
	return l.WaitUntil(ctx, l.opts.Until, l.opts.Timeout, l.opts.Progress)
}

func (l *Lab) build(ctx context.Context) error {
	if err := l.refuseForeignDir(); err != nil {
		return err
	}
	if err := l.clear(ctx); err != nil {
		return err
	}
	s := &state{
		Bridge: l.opts.Bridge, Shared: l.opts.Bridge != "", Binary: l.opts.Binary, K3s: l.opts.K3s, Env: l.opts.Env,
		Binds: l.opts.Binds,
	}
	if !s.Shared {
		s.Bridge = defaultBridge
	}
	if err := s.save(l.dir); err != nil {
		return err
	}
	if l.opts.Config != nil {
		// Kept for nodes that are added later; 0600 because it holds the token.
		if err := p2p.WriteFile(l.configPath(), l.opts.Config, 0o600); err != nil {
			return fmt.Errorf("keep configuration: %w", err)
		}
	}
	if err := l.startSwitch(ctx, s); err != nil {
		return err
	}
	return l.addNodes(ctx, s, l.opts.Nodes, l.opts.NodeConfig, l.opts.Config, l.opts.OneByOne)
}

// Add starts count more nodes with the configuration that the lab was brought up with and returns their names.
func (l *Lab) Add(ctx context.Context, count int) ([]string, error) {
	var names []string
	err := l.change(ctx, func(s *state) error {
		if count < 1 || len(s.Nodes)+count > MaxNodes {
			return fmt.Errorf("%w: add %d nodes to %d: a lab has 1 to %d", ErrUsage, count, len(s.Nodes), MaxNodes)
		}
		config, err := os.ReadFile(l.configPath())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("read configuration: %w", err)
		}
		before := len(s.Nodes)
		err = l.addNodes(ctx, s, count, nil, config, false)
		for _, n := range s.Nodes[before:] {
			names = append(names, n.Name)
		}
		return err
	})
	return names, err
}

func (l *Lab) addNodes(ctx context.Context, s *state, count int, own map[string][]byte, common []byte, oneByOne bool) error {
	var added []*node
	for range count {
		n := &node{Number: len(s.Nodes) + 1, Hardware: newHardwareID()}
		n.Name = nodeName(n.Number)
		n.NAT, n.Binary = l.opts.NAT[n.Name], l.opts.NodeBinary[n.Name]
		if err := makeNodeDir(l.nodeDir(n.Name)); err != nil {
			return err
		}
		config, ok := own[n.Name]
		if !ok {
			config = common
		}
		if config != nil {
			if err := p2p.WriteFile(l.oemPath(n.Name), config, 0o600); err != nil {
				return fmt.Errorf("configure %s: %w", n.Name, err)
			}
		}
		s.Nodes = append(s.Nodes, n)
		added = append(added, n)
	}
	if !oneByOne {
		return l.powerOn(ctx, s, added)
	}
	for _, n := range added {
		if err := l.powerOn(ctx, s, []*node{n}); err != nil {
			return err
		}
		if err := l.waitForAnswer(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// powerOn boots the nodes that are off, and when all are up starts the agents that do not run, as close together as possible.
func (l *Lab) powerOn(ctx context.Context, s *state, nodes []*node) error {
	seeds := map[*node]*seed{}
	defer func() {
		for _, born := range seeds {
			born.drop()
		}
	}()
	for _, n := range nodes {
		if n.Init.alive() {
			continue
		}
		if err := l.switchOnRouter(ctx, s, n); err != nil {
			return err
		}
		const spaces = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS
		born, err := spawn(s.Binary, roleNode, l.dir, n.Name, spaces, nil)
		if err != nil {
			return err
		}
		seeds[n], n.Init = born, born.process
	}
	if err := s.save(l.dir); err != nil {
		return err
	}
	boots, bootCtx := errgroup.WithContext(ctx)
	boots.SetLimit(bootParallelism)
	for n, born := range seeds {
		boots.Go(func() error {
			if err := s.plug(n); err != nil {
				return err
			}
			if n.Delay > 0 {
				if err := l.slowDown(bootCtx, s, n); err != nil {
					return err
				}
			}
			return born.grow(bootCtx, n.Name, l.task(s, n))
		})
	}
	if err := boots.Wait(); err != nil {
		return err
	}
	agents, agentCtx := errgroup.WithContext(ctx)
	for _, n := range nodes {
		agents.Go(func() error {
			answer, err := l.ask(agentCtx, n, request{Op: opStart})
			n.AgentStarted = answer.Started
			return err
		})
	}
	err := agents.Wait()
	return errors.Join(err, s.save(l.dir))
}

func (l *Lab) task(s *state, n *node) *nodeTask {
	return &nodeTask{
		Dir: l.nodeDir(n.Name), Log: l.logPath(n.Name), Addr: n.addr(s.Subnet), Subnet: s.Subnet, NAT: n.NAT != NATNone, Hostname: l.hostname(n.Name),
		Hardware: n.Hardware, Binary: cmp.Or(n.Binary, s.Binary), K3s: s.K3s, Binds: s.Binds, Env: s.Env,
	}
}

// hostname is what the node boots with: the static one of its configuration, else localhost, as a machine that has none.
func (l *Lab) hostname(name string) string {
	const none = "localhost"
	raw, err := os.ReadFile(l.oemPath(name))
	if err != nil {
		return none
	}
	var config struct {
		Hostname string `yaml:"hostname"`
	}
	// A configuration that does not parse is for the agent to complain about; a template too is for the agent to fill in.
	if err := yaml.Unmarshal(raw, &config); err != nil || !hostnameShape.MatchString(config.Hostname) {
		return none
	}
	return config.Hostname
}

// Down ends every process of the lab and removes all that it wrote. It works on a lab that is half built, whose commands were
// killed, or that is not there at all.
func (l *Lab) Down(ctx context.Context) error {
	if !exists(l.dir, "lab.json") && !exists(l.dir, "lock") {
		// Not a lab's directory (any more). Processes can outlive it if somebody removed it by hand.
		err := l.endProcesses(ctx, nil)
		_ = os.Remove(l.dir) // empty, if a command was killed as it began; else it stays
		return err
	}
	held, err := lockDir(ctx, l.dir, true)
	if err != nil {
		return fmt.Errorf("lab down: %w", err)
	}
	defer held.release()
	if err := l.clear(ctx); err != nil {
		return fmt.Errorf("lab down: %w", err)
	}
	if err := os.Remove(filepath.Join(l.dir, "lock")); err != nil {
		return fmt.Errorf("lab down: %w", err)
	}
	// Somebody else's files may lie beside ours; then the directory stays.
	_ = os.Remove(l.dir)
	return nil
}

// refuseForeignDir keeps a lab out of a directory that somebody uses for something else, because Down removes files by name.
func (l *Lab) refuseForeignDir() error {
	if exists(l.dir, "lab.json") {
		return nil
	}
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		torn, err := filepath.Match(p2p.Unfinished("lab.json"), entry.Name())
		if err != nil {
			return err // the pattern is constant
		}
		if entry.Name() != "lock" && !torn {
			return fmt.Errorf("%w: %s holds other things than a lab (%s): choose an empty directory", ErrUsage, l.dir, entry.Name())
		}
	}
	return nil
}

func exists(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

// clear removes everything of a lab but its lock.
func (l *Lab) clear(ctx context.Context) error {
	// A state that cannot be read must not keep a lab alive: its processes are found by their arguments as well.
	s, err := loadState(l.dir)
	if err != nil {
		s = nil
	}
	if err := l.endProcesses(ctx, s); err != nil {
		return err
	}
	// What a command left that was killed while it wrote. The state is the first that a lab writes.
	whole := exists(l.dir, "lab.json")
	remove := []string{p2p.Unfinished("lab.json")}
	if whole {
		remove = append(remove, "nodes", "log", p2p.Unfinished("config.yaml"), "config.yaml", p2p.Unfinished("timeline.json"), "timeline.json", "lab.json")
	}
	for _, pattern := range remove {
		found, err := fs.Glob(os.DirFS(l.dir), pattern)
		if err != nil {
			return err // the patterns are constant
		}
		for _, name := range found {
			if err := os.RemoveAll(filepath.Join(l.dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Lab) endProcesses(ctx context.Context, s *state) error {
	var all []process
	if s != nil {
		for _, n := range s.Nodes {
			all = append(all, n.Init, n.Router, n.Slow)
		}
	}
	strays, err := labProcesses(l.dir)
	if err != nil {
		return err
	}
	all = append(all, strays...)
	if s != nil && s.Shared && s.Switch.alive() {
		if err := s.leaveBridge(); err != nil {
			return err
		}
	}
	if s != nil {
		all = append(all, s.Switch)
	}
	ends, ctx := errgroup.WithContext(ctx)
	for _, p := range all {
		ends.Go(func() error { return p.kill(ctx) })
	}
	return ends.Wait()
}

// change runs fn on the state of a lab that is up, under its lock, and writes the state back even if fn fails half way.
func (l *Lab) change(ctx context.Context, fn func(*state) error) error {
	if _, err := loadState(l.dir); err != nil {
		return err
	}
	held, err := lockDir(ctx, l.dir, false)
	if err != nil {
		return err
	}
	defer held.release()
	s, err := loadState(l.dir)
	if err != nil {
		return err
	}
	return errors.Join(fn(s), s.save(l.dir))
}

// Nodes returns the names of all nodes, with power or without.
func (l *Lab) Nodes() ([]string, error) {
	s, err := loadState(l.dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(s.Nodes))
	for i, n := range s.Nodes {
		names[i] = n.Name
	}
	return names, nil
}

// NodeAddr returns the underlay address of a node, not the mesh's: what eth0 has, or what its router has on the switch.
func (l *Lab) NodeAddr(name string) (netip.Addr, error) {
	s, n, err := l.find(name)
	if err != nil {
		return netip.Addr{}, err
	}
	return n.addr(s.Subnet), nil
}

// SwitchAddr returns the address of the lab's switch, which every node can reach.
func (l *Lab) SwitchAddr() (netip.Addr, error) {
	s, err := loadState(l.dir)
	if err != nil {
		return netip.Addr{}, err
	}
	return subnetAddr(s.Subnet, switchHost), nil
}

// SwitchNetNS returns the path of the switch's network namespace, for setns(2) or nsenter --net.
func (l *Lab) SwitchNetNS() (string, error) {
	s, err := loadState(l.dir)
	if err != nil {
		return "", err
	}
	return netNSPath(s.Switch), nil
}

// ListenSwitch listens on TCP in the switch's network namespace, so that this process can be a server that the nodes reach at
// [Lab.SwitchAddr]. An address without a host (":8080", ":0") means SwitchAddr. The listener outlives the lab unless closed.
func (l *Lab) ListenSwitch(ctx context.Context, address string) (net.Listener, error) {
	s, err := loadState(l.dir)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: listen in the switch: %w", ErrUsage, err)
	}
	if host == "" {
		host = subnetAddr(s.Subnet, switchHost).String()
	}
	var listener net.Listener
	err = InNetNS(netNSPath(s.Switch), func() error {
		listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(host, port))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in the switch: %w", err)
	}
	return listener, nil
}

func (l *Lab) find(name string) (*state, *node, error) {
	s, err := loadState(l.dir)
	if err != nil {
		return nil, nil, err
	}
	n, err := s.node(name)
	return s, n, err
}

func (l *Lab) configPath() string { return filepath.Join(l.dir, "config.yaml") }

func (l *Lab) oemPath(name string) string {
	return filepath.Join(l.nodeDir(name), "oem", "90_custom.yaml")
}

func (l *Lab) logPath(name string) string { return filepath.Join(l.dir, "log", name+".log") }

func netNSPath(p process) string { return fmt.Sprintf("/proc/%d/ns/net", p.PID) }

// newHardwareID returns a random UUID (RFC 9562, version 4), as a mainboard carries in its DMI table.
func newHardwareID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
}

// Configure replaces the configuration of a node; it counts from the node's next boot.
func (l *Lab) Configure(ctx context.Context, name string, config []byte) error {
	return l.change(ctx, func(s *state) error {
		if _, err := s.node(name); err != nil {
			return err
		}
		if err := p2p.WriteFile(l.oemPath(name), config, 0o600); err != nil {
			return fmt.Errorf("configure %s: %w", name, err)
		}
		return nil
	})
}
