package scenario

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// freezeTime is shorter than what makes a node dead, and longer than what a
// coordinator may be silent.
const freezeTime = 5 * time.Second

// freezeCoordinator stops the coordinator's agent for a moment and checks that the
// site stays what it was and decides again.
func (s *testSite) freezeCoordinator(before outcome) {
	s.t.Helper()
	victim := s.coordinator()
	k3s := s.k3sProcesses(s.rows()[victim])
	require.NoError(s.t, s.KillAgent(s.t.Context(), victim, unix.SIGSTOP))
	hold(s.t, freezeTime)
	require.NoError(s.t, s.KillAgent(s.t.Context(), victim, unix.SIGCONT))
	s.decides(victim, "thawed")
	require.Equal(s.t, before, s.undisturbed(readyTime, 3, true))
	require.Equal(s.t, k3s, s.k3sProcesses(s.rows()[victim]))
}

func TestAfterAPowerCutOfTheWholeSiteItIsWhatItWas(t *testing.T) {
	t.Parallel()
	s := site(t, 4, haSite(t))
	before := s.undisturbed(readyTime, 3, true)
	init := s.nodeWith(before.Epoch.Init)
	members := s.etcdMemberIDs(init)
	worker := s.byRole()["worker"][0]
	ha := s.byRole()["master/ha"]

	require.NoError(t, s.Kill(t.Context())) // all at once
	first := ha[0]
	require.NoError(t, s.Start(t.Context(), worker))
	require.NoError(t, s.Start(t.Context(), first))

	// A minority knows from its own disk who and where it is, and says what
	// decisions lack.
	s.waitWhy(soonTime, first, before.Standings[init].Hostname, before.Standings[ha[1]].Hostname, "nothing can be decided")
	s.eventually(soonTime, "the mesh address is back", func() error {
		out, err := s.Exec(t.Context(), first, "ip", "-o", "addr", "show", "muster0")
		if err == nil && !strings.Contains(out, before.Standings[first].Address+"/") {
			err = errors.New(out)
		}
		return err
	})
	status, err := s.status(first)
	require.NoError(t, err)
	require.Equal(t, before.Standings[first].Role, status.Role)
	require.Equal(t, before.Site, status.Site)
	require.False(t, status.Quorum)
	s.eventually(soonTime, "it asked for a bounded time and goes on alone", func() error {
		if log := s.agentLog(first); !strings.Contains(log, "nobody answered whether this node is still what it was") {
			return errors.New("not yet")
		}
		return nil
	})

	require.NoError(t, s.Start(t.Context(), ha[1]))
	require.NoError(t, s.Start(t.Context(), init))
	require.Equal(t, before, s.undisturbed(readyTime, 3, true))
	require.Equal(t, members, s.etcdMemberIDs(init))
	s.decides(init, "resumed")
}

func TestAnAgentThatRestartsLeavesK3sAlone(t *testing.T) {
	t.Parallel()
	s := site(t, 2, newConfig(t))
	s.waitReady(readyTime)
	before := s.standings()
	for _, c := range []struct {
		name   string
		signal unix.Signal
	}{
		{"killed", unix.SIGKILL},
		{"told to end", unix.SIGTERM},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &testSite{Lab: s.Lab, t: t}
			for _, name := range s.names() {
				row := s.rows()[name]
				k3s := s.k3sProcesses(row)
				require.Len(t, k3s, 1, "%s before", name)
				require.NoError(t, s.KillAgent(t.Context(), name, c.signal))
				s.eventually(soonTime, "the agent of "+name+" ends", func() error {
					if s.rows()[name].AgentPID != 0 {
						return errors.New("it runs")
					}
					return nil
				})
				require.Equal(t, k3s, s.k3sProcesses(row), "%s without its agent", name)
				require.NoError(t, s.Start(t.Context(), name))
				s.waitReady(soonTime, name)
				require.Equal(t, k3s, s.k3sProcesses(row), "%s after", name)
			}
			s.waitReady(soonTime)
			s.waitKubeReady(soonTime)
			require.Equal(t, before, s.standings())
		})
	}
}

// After the blackout the DHCP server has forgotten its leases, and two masters have each other's address: what every node remembers of
// them leads to somebody else.
func TestS19MastersThatComeBackWithEachOthersAddressesAreWhoTheyWere(t *testing.T) {
	t.Parallel()
	s := site(t, 4, haSite(t))
	before := s.undisturbed(readyTime, 3, true)
	one, other := s.nodeWith(before.Epoch.Init), s.byRole()["master/ha"][0]
	members := s.etcdMemberIDs(one)
	was, err := s.NodeAddr(one)
	require.NoError(t, err)

	require.NoError(t, s.Kill(t.Context()))
	require.NoError(t, s.SwapAddrs(t.Context(), one, other))
	require.NoError(t, s.Start(t.Context()))
	require.Contains(t, s.run(other, "ip", "-o", "address", "show", "eth0"), was.String()+"/")
	require.Equal(t, before, s.undisturbed(readyTime, 3, true))
	require.Equal(t, members, s.etcdMemberIDs(one))
	s.waitKubeReady(readyTime)
	s.decides(one, "swapped")
}
