package scenario

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/lab"
)

// replacingSite is haSite with little patience.
func replacingSite(t *testing.T) cloudConfig {
	t.Helper()
	config := haSite(t)
	config.ReplaceAfter = 20 * time.Second
	return config
}

// waitEtcd waits until the etcd of a master has that many members, and returns
// their IDs by name.
func (s *testSite) waitEtcd(within time.Duration, master string, members int) map[string]string {
	s.t.Helper()
	var ids map[string]string
	s.eventually(within, fmt.Sprintf("%d members of etcd", members), func() error {
		var err error
		if ids, err = s.etcdMembers(master); err != nil {
			return err
		}
		if len(ids) != members {
			return fmt.Errorf("they are %v", ids)
		}
		return nil
	})
	return ids
}

// A formed site of three masters and a worker loses a master for good: the worker
// takes its place. The lost one comes back, hears so before it starts anything,
// wipes, and works (histories S12, S13; complaints 18, 19, 22).
func TestALostMasterIsReplacedAndComesBackAsAWorker(t *testing.T) {
	t.Parallel()
	s := site(t, 4, replacingSite(t))
	s.waitReady(readyTime)
	s.formed(readyTime, "n1")
	before := s.standings()
	worker := s.byRole()["worker"][0]
	lost := s.byRole()["master/ha"][0]
	others := s.others(lost)
	etcdBefore := s.waitEtcd(soonTime, s.byRole()["master/clusterinit"][0], 3)

	s.cutPower(lost)
	s.waitRows(replaceTime, "the worker became a master", func(row lab.NodeStatus) bool { return row.Role == "master/ha" }, worker)
	s.waitReady(replaceTime, others...)
	etcdAfter := s.waitEtcd(soonTime, worker, 3)
	kept := 0
	for name, id := range etcdAfter {
		if etcdBefore[name] == id {
			kept++
		}
	}
	require.Equal(t, 2, kept, "the two that lived stayed members: %v, then %v", etcdBefore, etcdAfter)
	s.eventually(soonTime, "the voters are the masters", func() error {
		status, err := s.status(worker)
		if err != nil {
			return err
		}
		if len(status.Voters) != 3 || slices.Contains(status.Voters, before[lost].ID) {
			return fmt.Errorf("they are %v", status.Voters)
		}
		return nil
	})

	require.NoError(t, s.Start(t.Context(), lost))
	s.waitRows(replaceTime, "it is a worker, and Ready", func(row lab.NodeStatus) bool { return row.Role == "worker" && row.Ready }, lost)
	s.waitKubeReady(replaceTime)
	require.Equal(t, before[lost].Address, s.standings()[lost].Address, "an address is its node's own")
	require.Equal(t, before[lost].ID, s.standings()[lost].ID)
	require.Len(t, s.etcdMemberIDs(worker), 3, "it did not join etcd again")
	s.oneCluster()
	require.Contains(t, s.agentLog(lost), "Kubernetes data wiped")
}

// A master is lost before the control plane has formed: its place goes to another
// node after the grace, and the site forms (complaint 24).
func TestAMasterLostBeforeTheControlPlaneFormedIsReplaced(t *testing.T) {
	t.Parallel()
	s := site(t, 4, replacingSite(t))
	s.waitRows(formTime, "roles", func(row lab.NodeStatus) bool { return row.Role != "" })
	lost := s.byRole()["master/ha"][0]
	worker := s.byRole()["worker"][0]
	s.cutPower(lost)
	s.waitRows(readyTime, "the worker became a master", func(row lab.NodeStatus) bool { return row.Role == "master/ha" }, worker)
	s.waitReady(readyTime, s.others(lost)...)
	s.formed(soonTime, worker)
	s.waitEtcd(soonTime, worker, 3)
}

// installK3s gives a node K3s, as an image does that is late.
func (s *testSite) installK3s(name string) {
	s.t.Helper()
	dir := filepath.Join(s.NodeDir(name), "usr-local", "bin")
	require.NoError(s.t, os.MkdirAll(dir, 0o755))
	require.NoError(s.t, exec.CommandContext(s.t.Context(), "cp", binaries.k3s, filepath.Join(dir, "k3s.part")).Run())
	require.NoError(s.t, os.Rename(filepath.Join(dir, "k3s.part"), filepath.Join(dir, "k3s")))
}

// Etcd has two members, and the second dies before the third has joined: nothing is
// written any more, and nobody can join. The first goes on alone, the third joins,
// and the lost one, when it is back, begins its place anew. The first loses its
// power in between, after which its etcd does not even say who was in it.
func TestS16AMasterLostWhenEtcdHasTwoMembersDoesNotStopTheFormation(t *testing.T) {
	t.Parallel()
	config := haConfig(t, 3)
	config.ReplaceAfter = 20 * time.Second
	s := site(t, 3, config, withoutK3sBinary)
	s.waitRows(formTime, "roles", func(row lab.NodeStatus) bool { return row.Role != "" })
	before := s.standings()
	first, lost, third := s.byRole()["master/clusterinit"][0], s.byRole()["master/ha"][0], s.byRole()["master/ha"][1]
	s.installK3s(first)
	s.waitReady(readyTime, first)
	s.installK3s(lost)
	s.waitReady(readyTime, lost)
	s.waitEtcd(soonTime, first, 2)
	s.eventually(soonTime, "the first knows that they are two", func() error {
		var note struct {
			Members []struct {
				Learner bool
			}
		}
		text, err := os.ReadFile(s.stateFile(first, "etcd.json"))
		if err == nil {
			err = json.Unmarshal(text, &note)
		}
		if err == nil && (len(note.Members) != 2 || note.Members[0].Learner || note.Members[1].Learner) {
			err = fmt.Errorf("it knows %+v", note.Members)
		}
		return err
	})

	s.cutPower(lost)
	s.cutPower(first)
	require.NoError(t, s.Start(t.Context(), first))
	s.installK3s(third)
	s.waitReady(replaceTime, first, third)
	s.waitEtcd(soonTime, third, 2)
	require.Contains(t, s.agentLog(first), "etcd goes on alone")
	require.NotContains(t, s.agentLog(third), "etcd goes on alone")

	require.NoError(t, s.Start(t.Context(), lost))
	s.waitReady(replaceTime)
	s.formed(soonTime, first)
	s.waitEtcd(soonTime, first, 3)
	s.waitKubeReady(soonTime)
	s.oneCluster()
	for name, was := range before {
		require.Equal(t, was, s.standings()[name], "%s is what it was", name)
	}
	require.Contains(t, s.agentLog(lost), "Kubernetes data wiped")
}

// With dynamic_roles: false a lost master is only reported; an operator replaces
// it, and removes it when it is gone for good. What would cost the majority is
// refused.
func TestWithDynamicRolesOffALostMasterIsOnlyReportedUntilAnOperatorAsks(t *testing.T) {
	t.Parallel()
	config := haSite(t)
	config.NoK3s, config.OnlyReport, config.ReplaceAfter = true, true, 2*time.Second
	s := site(t, 4, config)
	s.waitReady(formTime)
	before := s.standings()
	masters, worker := s.masters(), s.byRole()["worker"][0]
	lost, through, third := masters[0], masters[1], masters[2]
	s.cutPower(lost)
	s.waitWhy(soonTime, s.coordinator(), before[lost].Hostname, "p2p.dynamic_roles: false only reports")
	require.Equal(t, "worker", s.rows()[worker].Role)

	require.Contains(t, s.refused(4, third, "muster", "node", "leave", "--yes"), "majority")
	require.Contains(t, s.refused(4, worker, "muster", "node", "replace", before[lost].Hostname, "--yes"), "no master")
	require.Contains(t, s.refused(4, through, "muster", "node", "replace", before[worker].Hostname), "only a master is replaced")
	s.refused(2, through, "muster", "node", "remove", "nobody")
	plan := s.run(through, "muster", "node", "replace", before[lost].Hostname)
	require.Contains(t, plan, before[worker].Hostname+" becomes a master in its place")
	require.Contains(t, plan, "--yes does it")
	require.Equal(t, "worker", s.rows()[worker].Role, "a plan changes nothing")

	s.run(through, "muster", "node", "replace", before[lost].Hostname, "--yes")
	s.waitRows(soonTime, "the worker is a master", func(row lab.NodeStatus) bool { return row.Role == "master/ha" && row.Ready }, worker)
	s.eventually(soonTime, "three voters again", func() error {
		status, err := s.status(worker)
		if err == nil && (len(status.Voters) != 3 || slices.Contains(status.Voters, before[lost].ID)) {
			err = fmt.Errorf("they are %v", status.Voters)
		}
		return err
	})
	require.NoError(t, s.Start(t.Context(), lost))
	s.waitRows(soonTime, "it works", func(row lab.NodeStatus) bool { return row.Role == "worker" && row.Ready }, lost)
	require.Equal(t, before[lost].Address, s.standings()[lost].Address)

	s.cutPower(lost)
	var removed struct{ State string }
	require.NoError(t, json.Unmarshal([]byte(s.run(through, "muster", "node", "remove", before[lost].Hostname, "--yes", "-o", "json")), &removed))
	require.Equal(t, "done", removed.State)
	require.NotContains(t, s.run(through, "muster", "nodes"), before[lost].Hostname)
	require.NoError(t, s.Start(t.Context(), lost))
	s.waitWhy(soonTime, lost, "removed from the site")
}

// The coordinator itself leaves: it hands over first, and nothing is lost.
func TestTheCoordinatorLeavesOnRequest(t *testing.T) {
	t.Parallel()
	config := haSite(t)
	config.NoK3s = true
	s := site(t, 4, config)
	s.waitReady(formTime)
	before := s.standings()
	worker := s.byRole()["worker"][0]
	leaver := s.coordinator()
	require.Contains(t, s.run(leaver, "muster", "node", "leave", "--yes"), "leave, done")
	s.waitWhy(soonTime, leaver, "removed from the site")
	s.waitRows(soonTime, "the worker took its place", func(row lab.NodeStatus) bool { return strings.HasPrefix(row.Role, "master") && row.Ready }, worker)
	s.eventually(soonTime, "three voters without it", func() error {
		status, err := s.status(worker)
		if err == nil && (len(status.Voters) != 3 || slices.Contains(status.Voters, before[leaver].ID) || !status.Quorum) {
			err = fmt.Errorf("they are %v", status.Voters)
		}
		return err
	})

	// It has left, and still knows what masters know.
	through := s.others(leaver, worker)[0]
	require.Contains(t, s.refused(4, through, "muster", "node", "revoke", before[leaver].ID), "was a master")
	require.Contains(t, s.run(through, "muster", "node", "revoke", before[leaver].ID, "--yes", "-o", "json"), "was a master")
	s.waitWhy(soonTime, leaver, "was revoked")

	// A master of a site without etcd is revoked at once, by another one.
	victim := s.others(leaver, worker, through)[0]
	require.Contains(t, s.refused(4, victim, "muster", "node", "revoke", before[victim].Hostname, "--yes"), "revoke it from another master")
	require.Contains(t, s.refused(4, through, "muster", "node", "revoke", before[victim].Hostname), "was a master")
	s.run(through, "muster", "node", "revoke", before[victim].Hostname, "--yes")
	s.waitWhy(soonTime, victim, "was revoked")
	for _, name := range []string{through, worker} {
		s.requireUnlisted(name, before[victim].ID)
	}
}
