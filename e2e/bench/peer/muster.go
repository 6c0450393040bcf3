package peer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-edge/muster/e2e/bench/lan"
	"github.com/muster-edge/muster/e2e/bench/procfs"
)

// musterFormation bounds `muster lab up`. It is a limit for a site that hangs, not a bar.
const musterFormation = 5 * time.Minute

// Muster is a site in Muster's own lab, driven through its command line, without K3s.
type Muster struct {
	bin   string
	dir   string
	nodes int
	up    *lan.Process
	began time.Time // when the first agent was started; zero until agents were seen
}

// NewMuster returns Muster, from its binary. dir is a folder of its own, removed by Stop.
func NewMuster(bin, dir string) *Muster { return &Muster{bin: bin, dir: dir} }

// Name implements Peer.
func (m *Muster) Name() string { return "muster" }

// Start implements Peer. `muster lab up` goes on in the background: the moment when every node has its role is taken
// from Addresses, not from how fast the lab notices it.
func (m *Muster) Start(ctx context.Context, nodes int) error {
	m.nodes = nodes
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return fmt.Errorf("muster: make folder: %w", err)
	}
	token, err := output(exec.CommandContext(ctx, m.bin, "token", "generate"))
	if err != nil {
		return fmt.Errorf("muster: make token: %w", err)
	}
	config := filepath.Join(m.dir, "config.yaml")
	if err := os.WriteFile(config, musterConfig(strings.TrimSpace(string(token)), nodes), 0o600); err != nil {
		return fmt.Errorf("muster: write configuration: %w", err)
	}
	cmd := exec.Command(m.bin, "lab", "up", "--nodes", strconv.Itoa(nodes), "--config", config,
		"--until", "roles", "--timeout", musterFormation.String(), "--dir", m.lab())
	m.up, err = lan.Start("muster lab up", cmd, filepath.Join(m.dir, "lab.log"))
	return err
}

// Addresses implements Peer.
func (m *Muster) Addresses(ctx context.Context) ([]netip.Addr, error) {
	ended, err := m.up.Exited()
	if err != nil {
		return nil, err
	}
	nodes, err := m.status(ctx)
	if err != nil {
		if !ended {
			return make([]netip.Addr, m.nodes), nil // the lab is still being built
		}
		return nil, err
	}
	if err := m.notice(nodes); err != nil {
		return nil, err
	}
	addresses := make([]netip.Addr, m.nodes)
	for i := range min(len(nodes), m.nodes) {
		if nodes[i].Role != "" {
			addresses[i] = nodes[i].Address
		}
	}
	return addresses, nil
}

// Started implements Peer.
func (m *Muster) Started() (time.Time, error) {
	if m.began.IsZero() {
		return time.Time{}, errors.New("muster: no agent was seen yet")
	}
	return m.began, nil
}

// Command implements Peer.
func (m *Muster) Command(ctx context.Context, node int, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, m.bin, append([]string{"lab", "exec", "--dir", m.lab(), fmt.Sprintf("n%d", node), "--"}, argv...)...)
}

// Process implements Peer.
func (m *Muster) Process(ctx context.Context, node int) (int, error) {
	nodes, err := m.status(ctx)
	if err != nil {
		return 0, err
	}
	if len(nodes) < node {
		return 0, fmt.Errorf("muster: lab status knows %d nodes, not node %d", len(nodes), node)
	}
	return agentOf(nodes[node-1].PID)
}

// Goroutines implements Goroutines, from the metrics on the agent's status socket.
func (m *Muster) Goroutines(ctx context.Context, node int) (int, error) {
	metrics, err := output(m.Command(ctx, node, "curl", "--silent", "--show-error", "--fail", "--max-time", "10",
		"--unix-socket", "/run/muster/muster.sock", "http://muster/metrics"))
	if err != nil {
		return 0, fmt.Errorf("muster: read metrics of node %d: %w", node, err)
	}
	goroutines, err := parseGauge(metrics, "go_goroutines")
	if err != nil {
		return 0, fmt.Errorf("muster: read metrics of node %d: %w", node, err)
	}
	return int(goroutines), nil
}

// Stop implements Peer.
func (m *Muster) Stop() error {
	if m.up == nil {
		return os.RemoveAll(m.dir)
	}
	stopped := m.up.Stop()
	if err := Down(m.bin, m.dir); err != nil {
		return errors.Join(stopped, err)
	}
	m.up, m.began = nil, time.Time{}
	return stopped
}

// Down takes down the lab, if there is one, that a Muster with this folder has made, and removes the folder. A lab that
// cannot be taken down keeps its folder, which is needed to try again.
func Down(bin, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "lab")); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := output(exec.CommandContext(ctx, bin, "lab", "down", "--dir", filepath.Join(dir, "lab"))); err != nil {
			return fmt.Errorf("muster: take down the lab in %s: %w", dir, err)
		}
	}
	return os.RemoveAll(dir)
}

func (m *Muster) lab() string { return filepath.Join(m.dir, "lab") }

// notice keeps when the first agent was started, as soon as all agents are seen. The kernel knows it, so it does not
// matter how late we look.
func (m *Muster) notice(nodes []labNode) error {
	if !m.began.IsZero() || len(nodes) < m.nodes {
		return nil
	}
	var first time.Time
	for _, node := range nodes {
		agent, err := agentOf(node.PID)
		if errors.Is(err, ErrNoProcess) {
			return nil // not started yet: looked for again at the next call
		}
		if err != nil {
			return err
		}
		started, err := procfs.StartTime(agent)
		if err != nil {
			return err
		}
		if first.IsZero() || started.Before(first) {
			first = started
		}
	}
	m.began = first
	return nil
}

// labNode is what the benchmarks need of one entry of `muster lab status -o json`.
type labNode struct {
	Number  int // in the lab: 1 for n1
	Role    string
	Address netip.Addr // zero: none yet
	PID     int
}

func (m *Muster) status(ctx context.Context) ([]labNode, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	printed, err := output(exec.CommandContext(ctx, m.bin, "lab", "status", "--dir", m.lab(), "-o", "json"))
	if err != nil {
		return nil, fmt.Errorf("muster: %w", err)
	}
	nodes, err := parseLabStatus(printed)
	if err != nil {
		return nil, fmt.Errorf("muster: %w", err)
	}
	return nodes, nil
}

// parseLabStatus reads `muster lab status -o json` and puts the nodes in the order n1, n2, … n10. Nodes that go by other
// names keep the order in which they are listed.
func parseLabStatus(printed []byte) ([]labNode, error) {
	var entries []struct {
		Hostname string `json:"hostname"`
		Role     string `json:"role"`
		Address  string `json:"address"`
		PID      int    `json:"pid"`
	}
	if err := json.Unmarshal(printed, &entries); err != nil {
		return nil, fmt.Errorf("parse lab status: %w", err)
	}
	nodes := make([]labNode, len(entries))
	for i, entry := range entries {
		nodes[i] = labNode{Number: i + 1, Role: entry.Role, PID: entry.PID}
		if digits, ok := strings.CutPrefix(entry.Hostname, "n"); ok {
			if number, err := strconv.Atoi(digits); err == nil {
				nodes[i].Number = number
			}
		}
		if entry.Address == "" {
			continue
		}
		address, _, _ := strings.Cut(entry.Address, "/")
		parsed, err := netip.ParseAddr(address)
		if err != nil {
			return nil, fmt.Errorf("parse lab status: address of node %d: %w", nodes[i].Number, err)
		}
		nodes[i].Address = parsed
	}
	slices.SortStableFunc(nodes, func(a, b labNode) int { return cmp.Compare(a.Number, b.Number) })
	return nodes, nil
}

// agentOf finds the agent among a node's processes: the lab's process ID may be that of the node's first process, of
// which the agent is a child. ErrNoProcess if there is no agent.
func agentOf(pid int) (int, error) {
	if pid <= 0 {
		return 0, ErrNoProcess
	}
	family, err := procfs.Family(pid)
	if err != nil {
		return 0, err
	}
	for _, member := range family {
		// A process that has ended since is none that we look for.
		if arguments, err := procfs.Arguments(member); err == nil && isAgent(arguments) {
			return member, nil
		}
	}
	return 0, fmt.Errorf("agent of node with process %d: %w", pid, ErrNoProcess)
}

func isAgent(arguments []string) bool {
	return slices.Contains(arguments[1:], "agent") && !slices.Contains(arguments, "lab")
}

// musterConfig is one configuration for all nodes. Three nodes and more form a site with three masters, which is the
// harder case: three voters must agree before anybody has a role.
func musterConfig(token string, nodes int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `#cloud-config
p2p:
  network_token: %q
  network_id: bench
  disable_dht: true
  minimum_nodes: %d
  auto:
    enable: true
`, token, nodes)
	if nodes >= 3 {
		b.WriteString("    ha:\n      enable: true\n      master_nodes: 2 # beside the first: three in all\n")
	}
	b.WriteString("k3s:\n  enabled: false\n")
	return b.Bytes()
}

// parseGauge reads one metric without labels from Prometheus's text format.
func parseGauge(metrics []byte, name string) (float64, error) {
	for line := range strings.Lines(string(metrics)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == name {
			value, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				return 0, fmt.Errorf("parse metric %s: %w", name, err)
			}
			return value, nil
		}
	}
	return 0, fmt.Errorf("parse metrics: no %s", name)
}
