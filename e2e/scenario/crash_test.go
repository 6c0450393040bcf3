package scenario

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Before anybody has a role there is a coordinator for a moment only, so these
// find their victim in what is on the nodes' disks.
var beforeRoles = map[string]func(s *testSite, name string) bool{
	"the coordinator": func(s *testSite, name string) bool {
		log, err := os.ReadFile(s.logFile(name))
		return err == nil && bytes.Contains(log, []byte("this node is the coordinator"))
	},
	// The founding master with the lowest ID is the one that would initialise.
	"the init master": func(s *testSite, name string) bool {
		founded := s.founding(name).Founded
		return founded != nil && slices.Min(founded.Genesis.Masters) == s.id(name)
	},
}

func TestKilledBeforeRolesAreDecidedChangesNothing(t *testing.T) {
	t.Parallel()
	for name, step := range beforeRoles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := haSite(t)
			config.NoK3s = true
			s := site(t, 4, config)
			cut := s.strike(name, step)
			s.whyNames(cut.node)
			s.end(cut)
			s.undisturbed(formTime, 3, false)
		})
	}
}

// betweenRolesAndK3s are moments of the init master before anybody may join its
// cluster: told what it is, and with a cluster's CA on disk that nobody knows of.
var betweenRolesAndK3s = []struct {
	name string
	step func(s *testSite, name string) bool
	kill func(s *testSite, name string) outage
}{
	{"the init master's agent, with its role known", (*testSite).initialises, (*testSite).killAgent},
	{"the init master, with its K3s started", (*testSite).hasClusterCA, (*testSite).cutPower},
}

func TestKilledBetweenRolesAndK3sChangesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range betweenRolesAndK3s {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := site(t, 4, haSite(t))
			down := c.kill(s, s.first(c.name, c.step))
			s.requireNoCA(down.node)
			s.whyNames(down.node)
			s.end(down)
			s.undisturbed(readyTime, 3, true)
		})
	}
}

// An init master that stays away for a minute before its cluster counts is
// passed over (history S4): what it made must not become a second cluster, and
// its place goes to the worker.
func TestS4AnInitMasterThatComesBackTooLateWipesAndJoins(t *testing.T) {
	t.Parallel()
	s := site(t, 4, haSite(t))
	late := s.first("K3s made its CA", (*testSite).hasClusterCA)
	s.cutPower(late)
	s.requireNoCA(late)
	abandoned := s.clusterCA(late)
	s.eventually(readyTime, "three masters without it", func() error {
		if masters := s.masters(); len(masters) != 3 || slices.Contains(masters, late) {
			return fmt.Errorf("they are %v", masters)
		}
		return nil
	})
	s.waitReady(readyTime, s.others(late)...)
	require.NoError(t, s.Start(t.Context(), late))
	s.waitReady(readyTime)

	cluster := s.oneCluster()
	require.Equal(t, 2, cluster.N)
	require.NotEqual(t, s.id(late), cluster.Init)
	require.NotEqual(t, abandoned, cluster.CAHash)
	require.Equal(t, "worker", s.rows()[late].Role)
	require.Len(t, s.etcdMemberIDs(s.nodeWith(cluster.Init)), 3)
	s.waitKubeReady(readyTime)
}

func TestKilledOnceAllIsReadyChangesNothing(t *testing.T) {
	t.Parallel()
	s := site(t, 4, haSite(t))
	before := s.undisturbed(readyTime, 3, true)
	members := s.etcdMemberIDs(s.nodeWith(before.Epoch.Init))
	require.Len(t, members, 3)

	for _, c := range []struct {
		name   string
		victim func() string
		kill   func(string) outage
	}{
		{"the coordinator", s.coordinator, s.cutPower},
		{"the init master", func() string { return s.nodeWith(before.Epoch.Init) }, s.cutPower},
		{"the coordinator's agent", s.coordinator, s.killAgent},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &testSite{Lab: s.Lab, t: t}
			victim := c.victim()
			down := c.kill(victim)
			s.whyNames(victim)
			s.end(down)
			require.Equal(t, before, s.undisturbed(readyTime, 3, true))
			require.Equal(t, members, s.etcdMemberIDs(s.nodeWith(before.Epoch.Init)))
		})
	}

	t.Run("the coordinator freezes for a moment", func(t *testing.T) {
		s := &testSite{Lab: s.Lab, t: t}
		s.freezeCoordinator(before)
	})
}

// initialises says whether a node has started the master role that initialises,
// by its log: its agent is not asked.
func (s *testSite) initialises(name string) bool {
	log, err := os.ReadFile(s.logFile(name))
	return err == nil && bytes.Contains(log, []byte("phase=installing")) &&
		s.founding(name).Founded != nil && slices.Min(s.founding(name).Founded.Genesis.Masters) == s.id(name)
}

// hasClusterCA says whether K3s has made, or got, a cluster's CA on a node.
func (s *testSite) hasClusterCA(name string) bool { return s.clusterCA(name) != "" }

// requireNoCA makes sure that no other living node knows of a cluster's CA.
func (s *testSite) requireNoCA(dead string) {
	s.t.Helper()
	for _, name := range s.others(dead) {
		rows, err := s.ledger(name, "epoch")
		require.NoError(s.t, err)
		for _, row := range rows {
			require.NotContains(s.t, string(row.Value), "ca_hash", "on %s: the kill came too late to mean anything", name)
		}
	}
}
