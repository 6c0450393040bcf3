package scenario

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Before anybody has a role there is a coordinator for a moment only, so these
// find their victim in what is on the nodes' disks.
var beforeRoles = map[string]func(s *testSite, name string) bool{
	"the coordinator": func(s *testSite, name string) bool {
		log, err := os.ReadFile(filepath.Join(s.Dir(), "log", name+".log"))
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

func TestKilledBetweenRolesAndK3sChangesNothing(t *testing.T) {
	t.Parallel()
	// The init master is the coordinator as well unless another one was faster.
	for _, agentOnly := range []bool{false, true} {
		name := "the init master loses power"
		if agentOnly {
			name = "the init master loses its agent"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := site(t, 4, haSite(t))
			s.waitRoles(formTime)
			victim := s.byRole()["master/clusterinit"][0]
			committed := s.caHashCommitted()
			down := outage{}
			if agentOnly {
				down = s.killAgent(victim)
			} else {
				down = s.cutPower(victim)
			}
			t.Logf("%s went down; CA hash committed: %v", victim, committed)
			s.whyNames(victim)
			s.end(down)
			s.undisturbed(readyTime, 3, true)
		})
	}
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
			s := &testSite{s.Lab, t}
			victim := c.victim()
			down := c.kill(victim)
			s.whyNames(victim)
			s.end(down)
			require.Equal(t, before, s.undisturbed(readyTime, 3, true))
			require.Equal(t, members, s.etcdMemberIDs(s.nodeWith(before.Epoch.Init)))
		})
	}

	t.Run("the coordinator freezes for a moment", func(t *testing.T) {
		s := &testSite{s.Lab, t}
		s.freezeCoordinator(before)
	})
}

// caHashCommitted says whether any node knows the cluster's CA.
func (s *testSite) caHashCommitted() bool {
	s.t.Helper()
	for _, name := range s.names() {
		rows, err := s.ledger(name, "epoch")
		require.NoError(s.t, err)
		for _, row := range rows {
			if bytes.Contains(row.Value, []byte("ca_hash")) {
				return true
			}
		}
	}
	return false
}
