package scenario

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/e2e/lab"
)

// What a person changes in the cloud-config counts from the agent's next start:
// K3s is restarted if that changed what K3s is told, and left alone if not. A
// change of the site's policy is drift, reported and not followed. And the API
// server answers at the virtual address.
func TestAChangedCloudConfigCountsFromTheNextStart(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.KubeVIP = ownVIP()
	config.K3s = map[string]any{
		"args": []string{"--node-label=edge.test/color=blue"}, "env": map[string]string{"EDGE_TEST": "one"}, "embedded_registry": true,
	}
	s := site(t, 2, config)
	s.waitReady(readyTime)
	kube := s.waitKubeReady(readyTime)
	master, worker := s.byRole()["master"][0], s.byRole()["worker"][0]
	node := s.rows()[master].Hostname
	require.Equal(t, "blue", kube[node].Labels["edge.test/color"])
	s.requireAPIAtVIP(master, worker)
	require.Equal(t, true, s.k3sConfig(master)["embedded-registry"], "rendered only")
	require.NotContains(t, s.k3sConfig(worker), "embedded-registry")

	// The agent alone starts again, and nothing has changed.
	before := s.k3sPID(master)
	s.restartAgent(master)
	s.waitReady(readyTime, master)
	require.Equal(t, before, s.k3sPID(master), "K3s was restarted without a reason")

	config.K3s["args"] = []string{"--node-label=edge.test/color=green"}
	config.K3s["env"] = map[string]string{"EDGE_TEST": "two"}
	config.Masters = 2 // for the founding only
	require.NoError(t, s.Configure(t.Context(), master, config.yaml(t)))
	s.restartAgent(master)
	s.eventually(readyTime, "K3s runs with the new arguments", func() error { return s.nodeArgsHave(node, "green") })
	s.waitReady(readyTime, master)
	require.NotEqual(t, before, s.k3sPID(master))
	require.Contains(t, s.run(master, "/bin/sh", "-c", fmt.Sprintf("tr '\\0' '\\n' </proc/%d/environ", s.k3sPID(master))), "EDGE_TEST=two")
	require.Contains(t, s.run(master, "/bin/sh", "-c", "muster policy show 2>&1"), "ha.master_nodes is 2 instead of 0")
	require.Equal(t, []string{master}, s.masters(), "the policy stays the site's")

	// A worker that reboots.
	config.Masters, config.K3s = 0, nil
	text := string(config.yaml(t)) + "k3s-agent:\n  args: [\"--node-label=edge.test/color=red\"]\n"
	require.NoError(t, s.Configure(t.Context(), worker, []byte(text)))
	require.NoError(t, s.Restart(t.Context(), worker))
	s.waitReady(readyTime, worker)
	s.eventually(readyTime, "the worker's K3s runs with its arguments", func() error { return s.nodeArgsHave(s.rows()[worker].Hostname, "red") })

	// A reserved argument is refused where it stands, before anything is started with it.
	refused := strings.Replace(text, "--node-label=edge.test/color=red", "--server=https://10.9.9.9:6443", 1)
	require.NoError(t, s.Run(t.Context(), worker, lab.Command{Args: []string{"/bin/sh", "-c", "cat > /tmp/refused.yaml"}, Stdin: strings.NewReader(refused)}))
	require.Contains(t, s.refused(2, worker, "muster", "config", "validate", "/tmp/refused.yaml"), "--server is reserved: the site decides whom a node joins")
}

// Each master is configured for another number of masters. The site has the number that it was founded with, whoever coordinates.
func TestS11ThePolicyIsTheSitesWhoeverCoordinates(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.Masters, config.MinimumNodes, config.NoK3s = 2, 5, true
	s := site(t, 5, config, withoutK3sBinary)
	s.waitReady(formTime)
	before, masters := s.standings(), s.masters()
	require.Len(t, masters, 3)
	for i, name := range masters {
		config.Masters = 2 * i // one, three and five in all
		require.NoError(t, s.Configure(t.Context(), name, config.yaml(t)))
		s.restartAgent(name)
	}
	s.waitReady(formTime)
	require.Contains(t, s.run(masters[2], "/bin/sh", "-c", "muster policy show 2>&1"), "ha.master_nodes is 4 instead of 2")

	for i := range 3 { // the next in office is always another
		office := s.coordinator()
		require.NoError(t, s.Kill(t.Context(), office))
		s.decidesAmong(s.others(office), s.coordinator(), fmt.Sprint("office", i))
		require.NoError(t, s.Start(t.Context(), office))
		s.waitReady(formTime)
		require.Equal(t, before, s.standings(), "%s was in office", office)
	}
}

func (s *testSite) restartAgent(name string) {
	s.t.Helper()
	require.NoError(s.t, s.KillAgent(s.t.Context(), name, unix.SIGKILL))
	require.NoError(s.t, s.Start(s.t.Context(), name))
}

// k3sPID is the process of a K3s without service manager, as the node counts.
func (s *testSite) k3sPID(name string) int {
	s.t.Helper()
	var live struct{ PID int }
	require.NoError(s.t, s.askJSON(name, &live, "cat", "/run/muster/k3s.pid"))
	return live.PID
}

// nodeArgsHave asks Kubernetes with which arguments a node's K3s was started.
func (s *testSite) nodeArgsHave(node, part string) error {
	var out, errOut bytes.Buffer
	err := s.Kubectl(s.t.Context(), lab.Command{
		Args: []string{"get", "node", node, "-o", `jsonpath={.metadata.annotations.k3s\.io/node-args}`}, Stdout: &out, Stderr: &errOut,
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, errOut.String())
	}
	if !strings.Contains(out.String(), part) {
		return fmt.Errorf("node-args: %s", out.String())
	}
	return nil
}
