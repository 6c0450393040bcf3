package scenario

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	// datastoreAddress is on the network of every lab, and no node's.
	datastoreAddress  = "172.30.255.201"
	datastorePassword = "correct-horse-battery-staple"
)

// Three masters and a worker on a datastore outside of the site: no etcd, no
// cluster-init, nobody joins another, and the credentials stay where K3s needs
// them. The site survives a power failure, and the loss of a master.
func TestMastersShareAnExternalDatastore(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.Masters, config.MinimumNodes = 2, 4
	endpoint := fmt.Sprintf("http://k3s:%s@%s:2379", datastorePassword, datastoreAddress)
	config.ExternalDB = endpoint
	s := site(t, 4, config)
	s.startDatastore()
	s.waitReady(readyTime)
	s.waitKubeReady(readyTime)
	masters, worker := s.masters(), s.byRole()["worker"][0]
	require.Len(t, masters, 3)
	check := func() {
		t.Helper()
		for _, name := range masters {
			k3s := s.k3sConfig(name)
			require.True(t, k3s["datastore-endpoint"] == endpoint, "the datastore of %s", name)
			require.NotContains(t, k3s, "cluster-init", "%s", name)
			require.NotContains(t, k3s, "server", "%s", name)
			require.NoDirExists(t, filepath.Join(s.NodeDir(name), "var-lib-rancher", "k3s", "server", "db", "etcd"))
			info, err := os.Stat(filepath.Join(s.NodeDir(name), "etc-rancher", "k3s", "config.yaml.d", "50-muster.yaml"))
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		}
		require.NotContains(t, s.k3sConfig(worker), "datastore-endpoint")
		secret := map[string]string{"datastore's password": datastorePassword}
		for name := range s.rows() {
			requireNoPart(t, secret, "the log of "+name, s.agentLog(name))
			for _, command := range []string{
				"muster status -o json", "muster policy show", "muster ledger get -o json", "muster nodes -o json", "muster events", "muster config show",
				"cat /proc/[0-9]*/cmdline | tr '\\0' ' '",
			} {
				requireNoPart(t, secret, command+" on "+name, s.run(name, "/bin/sh", "-c", command+" 2>&1"))
			}
		}
	}
	check()
	require.Contains(t, s.run(masters[0], "muster", "policy", "show"), "external_db=http://"+datastoreAddress+":2379")

	require.NoError(t, s.Restart(t.Context()))
	s.waitReady(readyTime)
	s.waitKubeReady(readyTime)
	require.NoError(t, s.Kill(t.Context(), masters[0]))
	s.waitReady(readyTime, masters[1], masters[2], worker)
	_, err := s.kubeNodes()
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context(), masters[0]))
	s.waitReady(readyTime)
	check()
}

// startDatastore runs the stand-in's etcd on the lab's switch until the test ends.
func (s *testSite) startDatastore() {
	s.t.Helper()
	namespace, err := s.SwitchNetNS()
	require.NoError(s.t, err)
	address, err := s.SwitchAddr()
	require.NoError(s.t, err)
	const own = `dev=$(ip -o addr | awk -v a="$1/" 'index($4, a) == 1 { print $2; exit }') && ip addr add "$2/16" dev "$dev"`
	out, err := exec.CommandContext(s.t.Context(), "nsenter", "--net="+namespace, "/bin/sh", "-c", own, "sh", address.String(), datastoreAddress).CombinedOutput()
	require.NoError(s.t, err, "%s", out)

	log, err := os.Create(filepath.Join(s.t.TempDir(), "etcd.log"))
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, "nsenter", "--net="+namespace, binaries.k3s, "lab-etcd", s.t.TempDir(), "http://"+datastoreAddress+":2379")
	c.Stdout, c.Stderr = log, log
	c.Cancel = func() error { return c.Process.Signal(unix.SIGTERM) }
	c.WaitDelay = 30 * time.Second
	require.NoError(s.t, c.Start())
	s.t.Cleanup(func() {
		cancel()
		_ = c.Wait() // it was told to end
		if s.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			s.t.Logf("etcd:\n%s", text)
		}
		_ = log.Close()
	})
}
