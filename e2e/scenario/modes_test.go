package scenario

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A site is more than Kubernetes: roles, addresses, names and the mesh.
func TestSiteWithoutKubernetesIsReady(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.NoK3s, config.DNS = true, true
	s := site(t, 2, config, withoutK3sBinary)
	s.waitReady(formTime)
	s.requireOneSite(2)
	standings := s.standings()
	for name := range standings {
		for _, other := range standings {
			s.run(name, "ping", "-c", "1", "-w", "10", other.Address)
		}
		require.NoDirExists(t, filepath.Join(s.NodeDir(name), "var-lib-rancher", "k3s"))
	}
	master, worker := s.byRole()["master"][0], s.byRole()["worker"][0]
	s.run(master, "muster", "dns", "set", "foo.bar", "2.2.2.2")
	s.requireNames(standings)
	s.refused(4, worker, "muster", "kubeconfig")
	s.refused(4, worker, "muster", "dns", "set", "bar.foo", "2.2.2.3")
}

// The mesh exists, and Kubernetes stays on the LAN.
func TestKubernetesStaysOnTheLANWhenTheVPNIsNotForIt(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.VPN = map[string]any{"create": true, "use": false}
	s := site(t, 2, config)
	s.waitReady(readyTime)
	s.requireKubernetesOnTheLAN()
	standings := s.standings()
	s.run("n1", "ping", "-c", "1", "-w", "10", standings["n2"].Address)
}

func TestSiteWithoutAVPNIsCoordinatedOnly(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.VPN = map[string]any{"create": false}
	s := site(t, 2, config)
	s.waitReady(readyTime)
	s.requireKubernetesOnTheLAN()
	for _, name := range []string{"n1", "n2"} {
		require.NotContains(t, s.run(name, "ip", "link"), "muster0")
	}
}

func (s *testSite) requireKubernetesOnTheLAN() {
	s.t.Helper()
	kube := s.waitKubeReady(readyTime)
	for name, row := range s.rows() {
		require.Equal(s.t, row.Underlay, kube[row.Hostname].InternalIP, "Kubernetes's address of %s", name)
		require.Equal(s.t, row.Underlay, s.k3sConfig(name)["node-ip"], "%s", name)
	}
	s.requireOneSite(len(kube))
}
