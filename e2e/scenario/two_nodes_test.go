package scenario

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Two machines with the same file become a site, do what a site is for, and are
// the same again after both lost power.
func TestTwoIdenticalNodesBecomeMasterAndWorker(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.DNS = true
	s := site(t, 2, config)
	s.waitReady(readyTime)

	before := s.standings()
	roles := s.byRole()
	require.Len(t, roles["master"], 1)
	require.Len(t, roles["worker"], 1)
	master, worker := roles["master"][0], roles["worker"][0]
	require.ElementsMatch(t, []string{"10.1.0.1", "10.1.0.2"}, []string{before[master].Address, before[worker].Address})

	kube := s.waitKubeReady(readyTime)
	for name, node := range before {
		require.Equal(t, node.Address, kube[node.Hostname].InternalIP, "Kubernetes's address of %s", name)
		require.Regexp(t, `^muster-[a-z0-9]{8}$`, node.Hostname)
	}
	require.Contains(t, kube[before[master].Hostname].Labels, "node-role.kubernetes.io/control-plane")
	require.NotContains(t, kube[before[worker].Hostname].Labels, "node-role.kubernetes.io/control-plane")

	s.run(master, "muster", "dns", "set", "foo.bar", "2.2.2.2")
	s.requireNames(before)
	s.run(master, "ping", "-c", "1", "-w", "10", before[worker].Address)
	s.run(worker, "ping", "-c", "1", "-w", "10", before[master].Address)

	s.run(master, "/bin/sh", "-c", "muster kubeconfig > /tmp/kubeconfig && kubectl --kubeconfig /tmp/kubeconfig get nodes")
	require.Contains(t, s.refused(4, worker, "muster", "kubeconfig"), before[master].Hostname)
	for name := range before {
		require.Contains(t, s.run(name, "muster", "policy", "show"), "minimum_nodes")
		require.Equal(t, "600\n", s.run(name, "stat", "-c", "%a", "/run/muster/muster.sock"))
		// Kubernetes is asked again and again, and may once be slow to answer.
		s.eventually(soonTime, name+" says that all is well", func() error {
			metrics := s.run(name, "curl", "-sf", "--unix-socket", "/run/muster/muster.sock", "http://muster/metrics")
			why := s.run(name, "muster", "why")
			if !strings.Contains(metrics, "\nmuster_ready 1\n") || !strings.Contains(metrics, "\nmuster_members{status=\"alive\"} 2\n") || !strings.Contains(why, "nothing") {
				return fmt.Errorf("it waits for %q, and its metrics are\n%s", why, metrics)
			}
			return nil
		})
	}
	s.requireNoSecrets(s.secrets(config, master))

	require.NoError(t, s.Restart(t.Context()))
	s.waitReady(readyTime)
	require.Equal(t, before, s.standings())
	s.waitKubeReady(readyTime)
	s.requireNames(before)
	s.requireNoSecrets(s.secrets(config, master))
}

// requireNames waits until every node resolves, as any program on it would, the
// record foo.bar and the names of all nodes.
func (s *testSite) requireNames(nodes map[string]standing) {
	s.t.Helper()
	want := map[string]string{"foo.bar": "2.2.2.2"}
	for _, node := range nodes {
		want[node.Hostname] = node.Address
		want[node.Hostname+".kairos.muster"] = node.Address
	}
	for on := range nodes {
		for name, address := range want {
			s.eventually(soonTime, fmt.Sprintf("%s resolves to %s on %s", name, address, on), func() error {
				out, err := s.Exec(s.t.Context(), on, "getent", "ahostsv4", name)
				if err != nil {
					return err
				}
				if !slices.Contains(strings.Fields(out), address) {
					return fmt.Errorf("got %q", out)
				}
				return nil
			})
		}
	}
}
