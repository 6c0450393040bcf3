package scenario

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// haConfig asks for three masters, as Kairos counts: two beside the first.
func haConfig(t *testing.T, minimumNodes int) cloudConfig {
	t.Helper()
	config := newConfig(t)
	config.Masters, config.MinimumNodes = 2, minimumNodes
	return config
}

func TestHAOfFourStartedAtOnce(t *testing.T) {
	t.Parallel()
	s := site(t, 4, haConfig(t, 4))
	s.waitReady(readyTime)
	s.waitKubeReady(readyTime)
	s.requireHA(4)
	s.requireOneCluster()

	// The first master, on its next start, is a server like the others.
	before := s.standings()
	first := s.byRole()["master/clusterinit"][0]
	require.NoError(t, s.Restart(t.Context(), first))
	s.waitReady(readyTime, first)
	s.waitKubeReady(readyTime)
	require.Equal(t, before, s.standings())
	s.requireOneCluster()
	require.Contains(t, s.k3sConfig(first), "server", "the K3s configuration of %s, the first master", first)
}

func TestHAOfSixStartedOneByOne(t *testing.T) {
	t.Parallel()
	s := site(t, 6, haConfig(t, 3), oneByOne)
	s.waitReady(readyTime)
	s.waitKubeReady(readyTime)
	s.requireHA(6)
	s.requireOneCluster()
}

// Roles do not depend on Kubernetes, so the other two orders need none.
func TestHARolesOfFourStartedOneByOne(t *testing.T) {
	t.Parallel()
	config := haConfig(t, 3)
	config.NoK3s = true
	s := site(t, 4, config, oneByOne)
	s.waitReady(formTime)
	s.requireHA(4)
}

func TestHARolesOfSixStartedAtOnce(t *testing.T) {
	t.Parallel()
	config := haConfig(t, 6)
	config.NoK3s = true
	s := site(t, 6, config)
	s.waitReady(formTime)
	s.requireHA(6)
}

// Two machines cannot hold three masters: nobody founds, and each says what is
// missing, until the rest is plugged in.
func TestHAWithTooFewNodesWaitsForTheRest(t *testing.T) {
	t.Parallel()
	config := haConfig(t, 0)
	s := site(t, 2, config)
	for _, name := range []string{"n1", "n2"} {
		why := s.waitWhy(soonTime, name, "3 masters", "2")
		t.Logf("%s: %s", name, strings.TrimSpace(why))
	}
	for name, row := range s.rows() {
		require.Empty(t, row.Role, "role of %s", name)
		require.Empty(t, row.Address, "address of %s", name)
		status, err := s.status(name)
		require.NoError(t, err)
		require.Empty(t, status.Site, "site of %s", name)
		require.NotEmpty(t, status.WaitingFor)
		require.NoDirExists(t, filepath.Join(s.NodeDir(name), "var-lib-rancher", "k3s", "server"))
	}

	_, err := s.Add(t.Context(), 1)
	require.NoError(t, err)
	s.waitReady(readyTime)
	s.waitKubeReady(readyTime)
	s.requireHA(3)
	s.requireOneCluster()
}

// requireHA makes sure that a site of that many nodes has one first master, two
// more, and workers, all in one site and with an address each.
func (s *testSite) requireHA(nodes int) {
	s.t.Helper()
	roles := s.byRole()
	require.Len(s.t, roles["master/clusterinit"], 1, "%v", roles)
	require.Len(s.t, roles["master/ha"], 2, "%v", roles)
	require.Len(s.t, roles["worker"], nodes-3, "%v", roles)
	s.requireOneSite(nodes)
}

// requireOneCluster makes sure that the three masters are one etcd, and that what
// Muster wrote for K3s lets no node ever found another: rendered only, where
// K3s is the stand-in.
func (s *testSite) requireOneCluster() {
	s.t.Helper()
	masters := s.masters()
	s.eventually(soonTime, "three members in etcd", func() error {
		members, err := s.etcdMembers(masters[0])
		if err == nil && len(members) != len(masters) {
			err = fmt.Errorf("members: %q", members)
		}
		return err
	})
	var servers, tokens []string
	rows := s.rows()
	for _, name := range masters {
		servers = append(servers, "https://"+rows[name].Address+":6443")
		tokens = append(tokens, s.k3sConfig(name)["agent-token"].(string))
	}
	agentToken := slices.Compact(tokens)
	require.Len(s.t, agentToken, 1, "masters disagree about the agent token")
	for name, row := range rows {
		config := s.k3sConfig(name)
		require.NotContains(s.t, config, "cluster-init", "%s", name)
		if row.Role != "master/clusterinit" || config["server"] != nil {
			require.Contains(s.t, servers, config["server"], "%s", name)
		}
		require.NotEqual(s.t, "https://"+row.Address+":6443", config["server"], "%s would join itself", name)
		token := config["token"].(string)
		if row.Role == "worker" {
			require.NotContains(s.t, config, "agent-token", "%s", name)
		}
		require.Equal(s.t, row.Role == "worker", strings.HasSuffix(token, agentToken[0]), "which token %s has", name)
	}
}

// etcdMembers asks the etcd of a master who belongs to it: member IDs by name.
// Newer K3s serve HTTP beside gRPC on a port of its own.
func (s *testSite) etcdMembers(master string) (map[string]string, error) {
	const ask = `cd /var/lib/rancher/k3s/server/tls/etcd && for port in 2379 2382; do
curl -sf --cacert server-ca.crt --cert client.crt --key client.key -d '{}' https://127.0.0.1:$port/v3/cluster/member/list && exit; done; exit 1`
	out, err := s.Exec(s.t.Context(), master, "/bin/sh", "-c", ask)
	if err != nil {
		return nil, err
	}
	var list struct {
		Members []struct{ ID, Name string }
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, err
	}
	ids := map[string]string{}
	for _, m := range list.Members {
		ids[m.Name] = m.ID
	}
	return ids, nil
}
