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

// stillWhatItWas is what a node that comes back wants to hear.
const stillWhatItWas = "still what it was"

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

	// A minority knows from its own disk who and where it is, waits a bounded time
	// for somebody to confirm it, and says what decisions lack.
	missing := []string{before.Standings[init].Hostname, before.Standings[ha[1]].Hostname}
	s.waitWhy(soonTime, first, append(missing, "quorum", stillWhatItWas)...)
	require.Contains(t, s.run(first, "ip", "-o", "addr", "show", "muster0"), before.Standings[first].Address+"/")
	status, err := s.status(first)
	require.NoError(t, err)
	require.Equal(t, before.Standings[first].Role, status.Role)
	require.Equal(t, before.Site, status.Site)
	require.False(t, status.Quorum)
	s.eventually(soonTime, "it goes on alone", func() error {
		why, err := s.Why(t.Context(), first)
		if err == nil && strings.Contains(why, stillWhatItWas) {
			return errors.New(why)
		}
		return err
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
			s := &testSite{s.Lab, t}
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
