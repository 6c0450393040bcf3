package scenario

//lint:file-ignore U1000 e2e/long links this file and uses a part of it

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"gopkg.in/yaml.v3"

	"github.com/muster-edge/muster/e2e/lab"
)

// Deadlines, not expectations: an idle machine needs a tenth of them.
const (
	// formTime is for a site to have roles and addresses.
	formTime = 2 * time.Minute
	// readyTime is for a site of a few nodes to be Ready, all started at once.
	readyTime = 6 * time.Minute
	// soonTime is for anything that needs no K3s.
	soonTime = 90 * time.Second
	// natTime is for a site with nodes behind routers to find all its paths: routers
	// have to be tried, and tried again.
	natTime = 2 * time.Minute
	// replaceTime is for a place to be given on: replace_after, a wipe, and a server
	// that joins.
	replaceTime = 6 * time.Minute
)

// pollInterval is between two looks at a condition. A look that starts processes
// in the nodes slows down what is waited for, so it is followed by a rest of
// restAfter times as long as it took.
const (
	pollInterval = 300 * time.Millisecond
	restAfter    = 4
)

// cloudConfig is a node's configuration; the zero value of a field leaves the key
// out.
type cloudConfig struct {
	Token        string
	NetworkID    string
	Role         string
	MinimumNodes int
	Masters      int // beside the first; more than 0 means HA
	DNS          bool
	JoinOnly     bool
	VPN          map[string]any
	K3s          map[string]any // beside enabled
	NoK3s        bool
	Hostname     string
	KubeVIP      map[string]any
	Bootstrap    []string
	ReplaceAfter time.Duration
	OnlyReport   bool // dynamic_roles: false
	ExternalDB   string
}

// newConfig is a site of its own: a fresh token, and nothing else.
func newConfig(t testing.TB) cloudConfig {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binaries.muster, "token", "generate").Output()
	require.NoError(t, err, "generate a token")
	return cloudConfig{Token: strings.TrimSpace(string(out))}
}

func (c cloudConfig) yaml(t testing.TB) []byte {
	t.Helper()
	p2p := map[string]any{"network_token": c.Token, "disable_dht": true}
	set := func(m map[string]any, key string, value any, there bool) {
		if there {
			m[key] = value
		}
	}
	set(p2p, "network_id", c.NetworkID, c.NetworkID != "")
	set(p2p, "role", c.Role, c.Role != "")
	set(p2p, "minimum_nodes", c.MinimumNodes, c.MinimumNodes != 0)
	ha := map[string]any{"enable": true, "master_nodes": c.Masters}
	set(ha, "external_db", c.ExternalDB, c.ExternalDB != "")
	set(p2p, "auto", map[string]any{"ha": ha}, c.Masters > 0)
	set(p2p, "dns", true, c.DNS)
	set(p2p, "replace_after", c.ReplaceAfter.String(), c.ReplaceAfter != 0)
	set(p2p, "dynamic_roles", false, c.OnlyReport)
	set(p2p, "join_only", true, c.JoinOnly)
	set(p2p, "bootstrap", c.Bootstrap, c.Bootstrap != nil)
	set(p2p, "vpn", c.VPN, c.VPN != nil)
	k3s := map[string]any{"enabled": !c.NoK3s}
	maps.Copy(k3s, c.K3s)
	file := map[string]any{"p2p": p2p, "k3s": k3s}
	set(file, "hostname", c.Hostname, c.Hostname != "")
	set(file, "kubevip", c.KubeVIP, c.KubeVIP != nil)
	out, err := yaml.Marshal(file)
	require.NoError(t, err)
	return append([]byte("#cloud-config\n"), out...)
}

// testSite is a lab and the questions that tests ask it. Its methods fail the
// test, so they belong on the test's own goroutine.
type testSite struct {
	*lab.Lab
	t testing.TB
	// last is what the newest wait found missing.
	last error
}

// site starts nodes with the same configuration and returns at once. If the test
// fails, its log ends with what every node waits for, where a CI that cuts logs
// still shows it.
func site(t testing.TB, nodes int, config cloudConfig, change ...func(*lab.Options)) *testSite {
	t.Helper()
	opts := lab.Options{Nodes: nodes, Config: config.yaml(t), Binary: binaries.muster, K3s: binaries.k3s}
	for _, fn := range change {
		fn(&opts)
	}
	s := &testSite{t: t}
	var why string
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("last wait: %v\n%s", s.last, why)
		}
	})
	s.Lab = lab.ForTest(t.Context(), t, opts)
	t.Cleanup(func() {
		if t.Failed() {
			why = s.allWhy()
		}
	})
	return s
}

// nodeConfig gives one node a configuration of its own.
func nodeConfig(t testing.TB, name string, c cloudConfig) func(*lab.Options) {
	t.Helper()
	raw := c.yaml(t)
	return func(o *lab.Options) {
		if o.NodeConfig == nil {
			o.NodeConfig = map[string][]byte{}
		}
		o.NodeConfig[name] = raw
	}
}

func withoutK3sBinary(o *lab.Options) { o.K3s = "" }

func oneByOne(o *lab.Options) { o.OneByOne = true }

func onBridge(name string) func(*lab.Options) {
	return func(o *lab.Options) { o.Bridge = name }
}

// allWhy is what every node waits for.
func (s *testSite) allWhy() string {
	// The test's own context has ended by now.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	rows, err := s.Status(ctx)
	if err != nil {
		return fmt.Sprintf("status: %v", err)
	}
	var all strings.Builder
	for _, row := range rows {
		why, err := s.Why(ctx, row.Node)
		fmt.Fprintf(&all, "%s %s %q %s ready=%v (err %v)\n%s\n", row.Node, row.Phase, row.Role, row.Address, row.Ready, err, why)
	}
	return all.String()
}

// eventually waits until look returns nil, and fails the test with look's last
// answer when it has not within the deadline.
func eventually(t testing.TB, within time.Duration, what string, look func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		start := time.Now()
		err := look()
		if err == nil {
			return
		}
		select {
		case <-time.After(max(pollInterval, restAfter*time.Since(start))):
		case <-ctx.Done():
			require.FailNow(t, "not within "+within.String()+": "+what, "%v", err)
		}
	}
}

func (s *testSite) eventually(within time.Duration, what string, look func() error) {
	s.t.Helper()
	eventually(s.t, within, what, func() error {
		s.last = look()
		return s.last
	})
}

// run runs a command in a node, which must succeed, and returns what it wrote to
// standard output.
func (s *testSite) run(name string, args ...string) string {
	s.t.Helper()
	out, err := s.Exec(s.t.Context(), name, args...)
	require.NoError(s.t, err)
	return out
}

// refused runs a command in a node, which must end with this exit code, and
// returns what it wrote, to either stream.
func (s *testSite) refused(code int, name string, args ...string) string {
	s.t.Helper()
	var out bytes.Buffer
	err := s.Run(s.t.Context(), name, lab.Command{Args: args, Stdout: &out, Stderr: &out})
	var exit *lab.ExitError
	require.ErrorAs(s.t, err, &exit, "%q in %s", args, name)
	require.Equal(s.t, code, exit.Code, "exit code of %q in %s: %s", args, name, out.String())
	return out.String()
}

// nodeStatus is `muster status -o json`, as far as DESIGN §14 promises it.
type nodeStatus struct {
	ID          string   `json:"id"`
	Hostname    string   `json:"hostname"`
	Site        string   `json:"site"`
	Phase       string   `json:"phase"`
	Role        string   `json:"role"`
	Address     string   `json:"address"`
	Coordinator string   `json:"coordinator"`
	Voters      []string `json:"voters"`
	Quorum      bool     `json:"quorum"`
	Members     int      `json:"members"`
	WaitingFor  []string `json:"waiting_for"`
}

// status is what the agent of a node says about it.
func (s *testSite) status(name string) (nodeStatus, error) {
	var status nodeStatus
	return status, s.askJSON(name, &status, "muster", "status", "-o", "json")
}

// decision is one row of `muster ledger get -o json`.
type decision struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
	Index uint64          `json:"index"`
}

// ledger is the decisions that a node knows under a prefix.
func (s *testSite) ledger(name, prefix string) ([]decision, error) {
	var rows []decision
	return rows, s.askJSON(name, &rows, "muster", "ledger", "get", prefix, "-o", "json")
}

func (s *testSite) askJSON(name string, answer any, args ...string) error {
	out, err := s.Exec(s.t.Context(), name, args...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), answer)
}

// rows is what every node says about itself, by node name.
func (s *testSite) rows() map[string]lab.NodeStatus {
	s.t.Helper()
	list, err := s.Status(s.t.Context())
	require.NoError(s.t, err)
	rows := map[string]lab.NodeStatus{}
	for _, row := range list {
		rows[row.Node] = row
	}
	return rows
}

// standing is what a node keeps for good.
type standing struct {
	ID, Hostname, Role, Address string
}

// standings is who every node is, as the node itself says.
func (s *testSite) standings() map[string]standing {
	s.t.Helper()
	all := map[string]standing{}
	for name, row := range s.rows() {
		all[name] = standing{row.ID, row.Hostname, row.Role, row.Address}
	}
	return all
}

// byRole is the nodes' names by role.
func (s *testSite) byRole() map[string][]string {
	s.t.Helper()
	roles := map[string][]string{}
	for name, row := range s.rows() {
		roles[row.Role] = append(roles[row.Role], name)
	}
	for _, names := range roles {
		slices.Sort(names)
	}
	return roles
}

// names is every node of the lab, with power or without.
func (s *testSite) names() []string {
	s.t.Helper()
	names, err := s.Nodes()
	require.NoError(s.t, err)
	return names
}

// others is every node but those named.
func (s *testSite) others(but ...string) []string {
	s.t.Helper()
	return slices.DeleteFunc(s.names(), func(name string) bool { return slices.Contains(but, name) })
}

// masters is the names of all nodes in a master's role.
func (s *testSite) masters() []string {
	s.t.Helper()
	var names []string
	for role, held := range s.byRole() {
		if strings.HasPrefix(role, "master") {
			names = append(names, held...)
		}
	}
	slices.Sort(names)
	return names
}

// waitReady waits until the nodes named, all if none is, are ready in their own
// verdict.
func (s *testSite) waitReady(within time.Duration, names ...string) {
	s.t.Helper()
	s.waitRows(within, "ready", func(row lab.NodeStatus) bool { return row.Ready }, names...)
}

func (s *testSite) waitRows(within time.Duration, what string, ok func(lab.NodeStatus) bool, names ...string) {
	s.t.Helper()
	s.eventually(within, what, func() error {
		list, err := s.Status(s.t.Context())
		if err != nil {
			return err
		}
		var late []string
		for _, row := range list {
			if (len(names) == 0 || slices.Contains(names, row.Node)) && !ok(row) {
				late = append(late, fmt.Sprintf("%s (%s %q %s) %s", row.Node, row.Phase, row.Role, row.Address, row.Reason))
			}
		}
		if len(late) > 0 {
			return fmt.Errorf("not yet: %s", strings.Join(late, "; "))
		}
		return nil
	})
}

// waitWhy waits until `muster why` in a node says something that contains every
// part, and returns it.
func (s *testSite) waitWhy(within time.Duration, name string, parts ...string) string {
	s.t.Helper()
	var why string
	s.eventually(within, fmt.Sprintf("why in %s names %q", name, parts), func() error {
		var err error
		if why, err = s.Why(s.t.Context(), name); err != nil {
			return err
		}
		for _, part := range parts {
			if !strings.Contains(why, part) {
				return fmt.Errorf("%q is not in:\n%s", part, why)
			}
		}
		return nil
	})
	return why
}

// kubeNode is a Node of Kubernetes, as far as these tests look.
type kubeNode struct {
	Name       string
	Ready      bool
	InternalIP string
	Labels     map[string]string
}

// kubeNodes is Kubernetes's own list of nodes, by name, from the first ready
// master.
func (s *testSite) kubeNodes() (map[string]kubeNode, error) {
	var list struct {
		Items []struct {
			Metadata struct {
				Name   string            `json:"name"`
				Labels map[string]string `json:"labels"`
			} `json:"metadata"`
			Status struct {
				Addresses []struct {
					Type    string `json:"type"`
					Address string `json:"address"`
				} `json:"addresses"`
				Conditions []struct {
					Type   string `json:"type"`
					Status string `json:"status"`
				} `json:"conditions"`
			} `json:"status"`
		} `json:"items"`
	}
	var out, errOut bytes.Buffer
	if err := s.Kubectl(s.t.Context(), lab.Command{
		Args: []string{"get", "nodes", "-o", "json"}, Stdout: &out, Stderr: &errOut,
	}); err != nil {
		return nil, fmt.Errorf("%w: %s", err, errOut.String())
	}
	if err := json.Unmarshal(out.Bytes(), &list); err != nil {
		return nil, err
	}
	nodes := map[string]kubeNode{}
	for _, item := range list.Items {
		n := kubeNode{Name: item.Metadata.Name, Labels: item.Metadata.Labels}
		for _, a := range item.Status.Addresses {
			if a.Type == "InternalIP" && n.InternalIP == "" {
				n.InternalIP = a.Address
			}
		}
		for _, c := range item.Status.Conditions {
			n.Ready = n.Ready || c.Type == "Ready" && c.Status == "True"
		}
		nodes[n.Name] = n
	}
	return nodes, nil
}

// waitKubeReady waits until Kubernetes has exactly the nodes of the lab, by
// hostname, all Ready, and returns them.
func (s *testSite) waitKubeReady(within time.Duration) map[string]kubeNode {
	s.t.Helper()
	var nodes map[string]kubeNode
	s.eventually(within, "all nodes Ready in Kubernetes", func() error {
		var err error
		if nodes, err = s.kubeNodes(); err != nil {
			return err
		}
		want := map[string]bool{}
		for _, row := range s.rows() {
			want[row.Hostname] = true
		}
		if len(nodes) != len(want) {
			return fmt.Errorf("Kubernetes lists %d nodes, want %d: %v", len(nodes), len(want), nodes)
		}
		for name := range want {
			if !nodes[name].Ready {
				return fmt.Errorf("%s is not Ready: %+v", name, nodes[name])
			}
		}
		return nil
	})
	return nodes
}

// k3sConfig is the K3s configuration that Muster wrote on a node.
func (s *testSite) k3sConfig(name string) map[string]any {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.NodeDir(name), "etc-rancher", "k3s", "config.yaml.d", "50-muster.yaml"))
	require.NoError(s.t, err)
	var config map[string]any
	require.NoError(s.t, yaml.Unmarshal(raw, &config))
	return config
}

// agentLog is everything that the agent of a node has written so far.
func (s *testSite) agentLog(name string) string {
	s.t.Helper()
	var out bytes.Buffer
	if err := s.Logs(s.t.Context(), name, &out, false); err != nil && !errors.Is(err, os.ErrNotExist) {
		require.NoError(s.t, err)
	}
	return out.String()
}

// requireNoPart makes sure that text holds no piece of a secret that would help
// anybody. It does not use testify's Contains, which would print both.
func requireNoPart(t testing.TB, secrets map[string]string, where, text string) {
	t.Helper()
	const piece = 16 // characters
	for name, secret := range secrets {
		// A prefix tells the format and is the same in all.
		for start := len(secret) / 4; start+piece <= len(secret); start += piece {
			if strings.Contains(text, secret[start:start+piece]) {
				require.FailNow(t, "a secret leaked", "%s holds characters %d to %d of the %s", where, start, start+piece, name)
			}
		}
	}
}

var pingAnswer = regexp.MustCompile(`^\[([0-9.]+)\] [0-9]+ bytes from`)

// pingAll pings until it is asked when the last answer came. It returns once there was one.
func (s *testSite) pingAll(from, address string) (last func() time.Time) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	s.t.Cleanup(cancel)
	reader, writer := io.Pipe()
	go func() {
		_ = s.Run(ctx, from, lab.Command{Args: []string{"ping", "-D", "-n", "-i", "0.05", address}, Stdout: writer})
		_ = writer.Close() // never fails
	}()
	var at time.Time
	first, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			m := pingAnswer.FindStringSubmatch(lines.Text())
			if m == nil {
				continue
			}
			if at.IsZero() {
				close(first)
			}
			seconds, _ := strconv.ParseFloat(m[1], 64) // ping prints no other
			at = time.UnixMicro(int64(seconds * 1e6))
		}
	}()
	select {
	case <-first:
	case <-time.After(soonTime):
		require.FailNow(s.t, "no answer at all")
	}
	return func() time.Time {
		cancel()
		<-done
		return at
	}
}

// requireOneSite makes sure that all nodes are in the same site and that every
// address and name is one node's.
func (s *testSite) requireOneSite(nodes int) {
	s.t.Helper()
	standings := s.standings()
	require.Len(s.t, standings, nodes)
	sites, addresses, names := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for name, node := range standings {
		status, err := s.status(name)
		require.NoError(s.t, err)
		sites[status.Site], addresses[node.Address], names[node.Hostname] = true, true, true
	}
	require.Len(s.t, sites, 1)
	require.NotContains(s.t, sites, "")
	require.Len(s.t, names, nodes)
	for i := range nodes {
		require.Contains(s.t, addresses, fmt.Sprintf("10.1.0.%d", i+1))
	}
}

// formed waits until all masters of the site were Ready together.
func (s *testSite) formed(within time.Duration, through string) {
	s.t.Helper()
	s.eventually(within, "the control plane has formed", func() error {
		rows, err := s.ledger(through, "epoch")
		if err != nil {
			return err
		}
		var epoch struct{ Formed bool }
		if len(rows) != 1 || json.Unmarshal(rows[0].Value, &epoch) != nil || !epoch.Formed {
			return errors.New("not yet")
		}
		return nil
	})
}

// paths are the paths from a node to all others, by name.
func (s *testSite) paths(from string) map[string]string {
	s.t.Helper()
	byID := map[string]string{}
	for name, row := range s.rows() {
		byID[row.ID] = name
	}
	all := map[string]string{}
	var rows []struct{ ID, Path string }
	require.NoError(s.t, s.askJSON(from, &rows, "muster", "nodes", "-o", "json"))
	for _, row := range rows {
		if name := byID[row.ID]; name != from {
			all[name] = row.Path
		}
	}
	return all
}

func (s *testSite) waitPath(from, to, want string) {
	s.t.Helper()
	s.eventually(natTime, fmt.Sprintf("the path from %s to %s is %s", from, to, want), func() error {
		if got := s.paths(from)[to]; got != want {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

func (s *testSite) waitPaths(from, to, want string) {
	s.t.Helper()
	s.waitPath(from, to, want)
	s.waitPath(to, from, want)
}

// through counts the bytes that have come out of a node's port of the switch, in both ways.
func (s *testSite) through(name string) (total int) {
	s.t.Helper()
	s.onPort(name, func(port netlink.Link) error {
		counted := port.Attrs().Statistics
		total = int(counted.RxBytes + counted.TxBytes)
		return nil
	})
	return total
}

// onPort runs fn in the network namespace of the switch, where a node has that port.
func (s *testSite) onPort(name string, fn func(port netlink.Link) error) {
	s.t.Helper()
	ns, err := s.SwitchNetNS()
	require.NoError(s.t, err)
	require.NoError(s.t, lab.InNetNS(ns, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(links, func(l netlink.Link) bool { return strings.HasSuffix(l.Attrs().Name, "-"+name) })
		if i < 0 {
			return fmt.Errorf("%s has no port", name)
		}
		return fn(links[i])
	}))
}
