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
)

// musterFormation bounds `muster lab up`. It is a limit for a site that hangs, not a bar.
const musterFormation = 5 * time.Minute

// Muster is a site in Muster's own lab, driven through its command line, without K3s.
type Muster struct {
	bin   string
	dir   string
	nodes int
	up    *lan.Process
}

// NewMuster returns Muster, from its binary. dir is a folder of its own, removed by Stop.
func NewMuster(bin, dir string) *Muster { return &Muster{bin: bin, dir: dir} }

// Name implements Peer.
func (m *Muster) Name() string { return "muster" }

// Start implements Peer.
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

// Join implements Peer. The lab asks the agents itself while it waits, and writes down when the last of them had role and
// address (its resolution is 250 ms and the time of a question, which counts against Muster). Asking a second time from
// here would slow down what is measured.
func (m *Muster) Join(ctx context.Context) (Joined, error) {
	select {
	case <-ctx.Done():
		return Joined{}, fmt.Errorf("muster: wait until every node is joined: %w: %s", context.Cause(ctx), m.up.Tail())
	case <-m.up.Done():
	}
	if _, err := m.up.Exited(); err != nil {
		return Joined{}, err
	}
	nodes, err := m.status(ctx)
	if err != nil {
		return Joined{}, err
	}
	joined := Joined{Addresses: make([]netip.Addr, m.nodes)}
	for i := range min(len(nodes), m.nodes) {
		if nodes[i].Role != "" {
			joined.Addresses[i] = nodes[i].Address
		}
	}
	if !complete(joined.Addresses) {
		return Joined{}, fmt.Errorf("muster: the lab says that every node has its role, and the nodes do not: %s", missing(joined.Addresses))
	}
	timeline, err := os.ReadFile(filepath.Join(m.lab(), "timeline.json"))
	if err != nil {
		return Joined{}, fmt.Errorf("muster: read when every node was joined: %w", err)
	}
	if joined.Took, err = parseTimeline(timeline); err != nil {
		return Joined{}, fmt.Errorf("muster: read when every node was joined: %w", err)
	}
	return joined, nil
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
	if nodes[node-1].Agent <= 0 {
		return 0, fmt.Errorf("muster: agent of node %d: %w", node, ErrNoProcess)
	}
	return nodes[node-1].Agent, nil
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
	m.up = nil
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

// labNode is what the benchmarks need of one entry of `muster lab status -o json`.
type labNode struct {
	Number  int // 1 for n1
	Role    string
	Address netip.Addr // zero: none yet
	Agent   int        // process ID of the agent, as the host counts; 0: it does not run
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

// parseLabStatus reads `muster lab status -o json` and puts the nodes in the order n1, n2, … n10.
func parseLabStatus(printed []byte) ([]labNode, error) {
	var entries []struct {
		Node    string `json:"node"`
		Role    string `json:"role"`
		Address string `json:"address"`
		Agent   int    `json:"agent_pid"`
	}
	if err := json.Unmarshal(printed, &entries); err != nil {
		return nil, fmt.Errorf("parse lab status: %w", err)
	}
	nodes := make([]labNode, len(entries))
	for i, entry := range entries {
		digits, _ := strings.CutPrefix(entry.Node, "n")
		number, err := strconv.Atoi(digits)
		if err != nil {
			return nil, fmt.Errorf("parse lab status: node is called %q, want n1, n2, …", entry.Node)
		}
		nodes[i] = labNode{Number: number, Role: entry.Role, Agent: entry.Agent}
		if entry.Address == "" {
			continue
		}
		address, _, _ := strings.Cut(entry.Address, "/")
		if nodes[i].Address, err = netip.ParseAddr(address); err != nil {
			return nil, fmt.Errorf("parse lab status: address of %s: %w", entry.Node, err)
		}
	}
	slices.SortFunc(nodes, func(a, b labNode) int { return cmp.Compare(a.Number, b.Number) })
	return nodes, nil
}

// parseTimeline reads the lab's timeline.json: how long the slowest node took to have role and address.
func parseTimeline(content []byte) (time.Duration, error) {
	var timeline struct {
		Site struct {
			Roles float64 `json:"roles"` // seconds since the first agent was started
		} `json:"site"`
	}
	if err := json.Unmarshal(content, &timeline); err != nil {
		return 0, fmt.Errorf("parse timeline: %w", err)
	}
	if timeline.Site.Roles <= 0 {
		return 0, errors.New("parse timeline: it does not say when every node had its role")
	}
	return time.Duration(timeline.Site.Roles * float64(time.Second)), nil
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
