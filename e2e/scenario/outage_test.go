package scenario

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/e2e/lab"
)

// downTime is how long a node that was killed stays down: long enough to be seen
// dead by everybody, short of what makes the planner act without it.
const downTime = 10 * time.Second

// haSite is the configuration of three masters and one worker.
func haSite(t *testing.T) cloudConfig {
	t.Helper()
	config := newConfig(t)
	config.Masters, config.MinimumNodes = 2, 4
	return config
}

// outage is a node without power, or only without its agent.
type outage struct {
	node  string
	since time.Time
}

// cutPower ends every process of a node.
func (s *testSite) cutPower(name string) outage {
	s.t.Helper()
	require.NoError(s.t, s.Kill(s.t.Context(), name))
	return outage{name, time.Now()}
}

// killAgent ends a node's agent alone, by SIGKILL.
func (s *testSite) killAgent(name string) outage {
	s.t.Helper()
	require.NoError(s.t, s.KillAgent(s.t.Context(), name, unix.SIGKILL))
	return outage{name, time.Now()}
}

// end starts the node again, downTime after it went down and no sooner.
func (s *testSite) end(o outage) {
	s.t.Helper()
	hold(s.t, downTime-time.Since(o.since))
	require.NoError(s.t, s.Start(s.t.Context(), o.node))
}

// hold keeps a fault up for d. It is not a wait for anything to happen.
func hold(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		require.NoError(t, t.Context().Err())
	}
}

// instantly waits for something that lasts a few milliseconds at most, so it
// looks at files only and asks nobody.
func instantly[T any](t testing.TB, within time.Duration, what string, look func() (T, bool)) T {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(within)
	for {
		if found, ok := look(); ok {
			return found
		}
		select {
		case <-tick.C:
		case <-late:
			require.FailNow(t, "not within "+within.String()+": "+what)
		case <-t.Context().Done():
			require.NoError(t, t.Context().Err())
		}
	}
}

// id is the peer ID of a node, from its disk; empty while there is none.
func (s *testSite) id(name string) string {
	var identity struct {
		ID string `json:"id"`
	}
	raw, err := os.ReadFile(s.stateFile(name, "identity.json"))
	if err != nil || json.Unmarshal(raw, &identity) != nil {
		return ""
	}
	return identity.ID
}

// nodeWith is the node that has a peer ID.
func (s *testSite) nodeWith(id string) string {
	s.t.Helper()
	i := slices.IndexFunc(s.names(), func(name string) bool { return s.id(name) == id })
	require.GreaterOrEqual(s.t, i, 0, "no node is %q", id)
	return s.names()[i]
}

// generatedName is what a node without a name of its own is called.
func generatedName(id string) string { return "muster-" + strings.ToLower(id[len(id)-8:]) }

// stateFile is a path in a node's state directory, as the host sees it.
func (s *testSite) stateFile(name string, parts ...string) string {
	return filepath.Join(append([]string{s.NodeDir(name), "usr-local", ".muster"}, parts...)...)
}

func (s *testSite) logFile(name string) string {
	return filepath.Join(s.Dir(), "log", name+".log")
}

// clusterCA is the hash of the CA that the K3s server of a node has, empty when it
// has none.
func (s *testSite) clusterCA(name string) string {
	ca, err := os.ReadFile(filepath.Join(s.NodeDir(name), "var-lib-rancher", "k3s", "server", "tls", "server-ca.crt"))
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(ca)
	return hex.EncodeToString(sum[:])
}

// whyNames waits until `muster why` on every other living node names a node.
func (s *testSite) whyNames(dead string, except ...string) {
	s.t.Helper()
	hostname := generatedName(s.id(dead))
	for _, name := range s.others(append(except, dead)...) {
		s.waitWhy(soonTime, name, hostname)
	}
}

// coordinator waits for a node to be named coordinator by itself and returns it.
func (s *testSite) coordinator() string {
	s.t.Helper()
	var found string
	s.eventually(soonTime, "a coordinator", func() error {
		for _, name := range s.names() {
			status, err := s.status(name)
			if err == nil && status.Coordinator == status.ID {
				found = name
				return nil
			}
		}
		return errors.New("no node says that it is")
	})
	return found
}

// outcome is what a site came to, and what no crash may change.
type outcome struct {
	Site      string
	Epoch     epoch
	Standings map[string]standing
}

type epoch struct {
	N      int    `json:"n"`
	Init   string `json:"init"`
	CAHash string `json:"ca_hash"`
}

// undisturbed waits until the site is what an undisturbed start makes of it, and
// returns it: one site of all nodes, each Ready; one master that initialised the
// cluster, the others of that many masters in HA, the rest workers; the first
// addresses of the range, each once; on k3s one epoch, with one CA.
func (s *testSite) undisturbed(within time.Duration, masters int, k3s bool) outcome {
	s.t.Helper()
	s.waitReady(within)
	out := outcome{Standings: s.standings()}
	var roles, wantRoles, addresses, wantAddresses []string
	for i, name := range s.names() {
		roles = append(roles, out.Standings[name].Role)
		addresses = append(addresses, out.Standings[name].Address)
		wantAddresses = append(wantAddresses, fmt.Sprintf("10.1.0.%d", i+1))
		switch {
		case i == 0:
			wantRoles = append(wantRoles, "master/clusterinit")
		case i < masters:
			wantRoles = append(wantRoles, "master/ha")
		default:
			wantRoles = append(wantRoles, "worker")
		}
	}
	require.ElementsMatch(s.t, wantRoles, roles)
	require.ElementsMatch(s.t, wantAddresses, addresses)
	s.eventually(soonTime, "every node is of the same site and sees all of it", func() error {
		out.Site = ""
		for _, name := range s.names() {
			status, err := s.status(name)
			if err != nil {
				return err
			}
			if out.Site == "" {
				out.Site = status.Site
			}
			if status.Site == "" || status.Site != out.Site || status.Members != len(out.Standings) || !status.Quorum {
				return fmt.Errorf("%s: %+v, and another node is of %q", name, status, out.Site)
			}
		}
		return nil
	})
	if k3s {
		out.Epoch = s.oneCluster()
		require.Equal(s.t, 1, out.Epoch.N, "the cluster was initialised once")
		s.waitKubeReady(within)
	}
	return out
}

// oneCluster checks that all nodes know the same epoch and that every server runs
// with its CA.
func (s *testSite) oneCluster() epoch {
	s.t.Helper()
	var first epoch
	for i, name := range s.names() {
		rows, err := s.ledger(name, "epoch")
		require.NoError(s.t, err)
		require.Len(s.t, rows, 1, "epoch on %s", name)
		var e epoch
		require.NoError(s.t, json.Unmarshal(rows[0].Value, &e))
		if i == 0 {
			first = e
		}
		require.Equal(s.t, first, e, "epoch on %s", name)
	}
	require.NotEmpty(s.t, first.CAHash)
	for _, name := range s.masters() {
		require.Equal(s.t, first.CAHash, s.clusterCA(name), "the CA on %s", name)
	}
	return first
}

// etcdMemberIDs is etcdMembers where etcd has to answer.
func (s *testSite) etcdMemberIDs(master string) map[string]string {
	s.t.Helper()
	var ids map[string]string
	s.eventually(soonTime, "etcd on "+master+" answers", func() (err error) {
		ids, err = s.etcdMembers(master)
		return err
	})
	return ids
}

// decides commits a decision through one node and waits until all nodes have it.
func (s *testSite) decides(through, record string) {
	s.t.Helper()
	s.eventually(soonTime, "a decision through "+through, func() error {
		_, err := s.Exec(s.t.Context(), through, "muster", "dns", "set", record, "192.0.2.1")
		return err
	})
	s.eventually(soonTime, "every node has the decision", func() error {
		for _, name := range s.names() {
			rows, err := s.ledger(name, "dns/"+record)
			if err != nil {
				return err
			}
			if len(rows) != 1 {
				return fmt.Errorf("%s does not have it", name)
			}
		}
		return nil
	})
}

// k3sProcesses is the PIDs, as the host counts, of every K3s server and agent in
// a node.
func (s *testSite) k3sProcesses(node lab.NodeStatus) []int {
	s.t.Helper()
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", node.PID))
	require.NoError(s.t, err)
	entries, err := os.ReadDir("/proc")
	require.NoError(s.t, err)
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// A process may end between two of these lines.
		if its, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns", "pid")); err != nil || its != space {
			continue
		}
		raw, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Fields(strings.ReplaceAll(string(raw), "\x00", " "))
		if len(args) > 1 && filepath.Base(args[0]) == "k3s" && (args[1] == "server" || args[1] == "agent") {
			found = append(found, pid)
		}
	}
	return found
}
