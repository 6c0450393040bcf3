package k3s

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// restarted is the next agent on the same machine.
func (m *machine) restarted(d *Driver) *Driver {
	m.t.Helper()
	require.NoError(m.t, d.Close())
	return m.driver(fast)
}

func TestChangedArgumentsRestartK3sAtTheAgentsNextStartOnly(t *testing.T) {
	m := newMachine(t)
	d := m.driver(fast)
	plain := worker()
	changed := with(worker(), func(s *Spec) { s.Args = append(s.Args, "--node-label=a=b") })
	require.NoError(t, d.Apply(t.Context(), plain))
	first := m.waitStarts(1)

	d = m.restarted(d)
	require.NoError(t, d.Apply(t.Context(), plain))
	require.Len(t, m.starts(), 1, "nothing has changed")
	require.True(t, alive(first.PID))

	// What the site decides anew is no reason either.
	moved := with(plain, func(s *Spec) { s.Join = "https://10.1.0.9:6443" })
	d = m.restarted(d)
	require.NoError(t, d.Apply(t.Context(), moved))
	require.NoError(t, d.Apply(t.Context(), changed))
	require.Len(t, m.starts(), 1, "a change in the life of an agent waits")

	d = m.restarted(d)
	require.NoError(t, d.Apply(t.Context(), changed))
	second := m.waitStarts(2)
	require.False(t, alive(first.PID))
	require.Contains(t, second.Args, "--node-label=a=b")

	d = m.restarted(d)
	require.NoError(t, d.Apply(t.Context(), changed))
	require.Len(t, m.starts(), 2)
	require.NoError(t, d.Stop(t.Context()))
}

func TestAK3sOfWhichNothingIsKnownIsLeftRunning(t *testing.T) {
	m := newMachine(t)
	d := m.driver(fast)
	require.NoError(t, d.Apply(t.Context(), worker()))
	m.waitStarts(1)
	require.NoError(t, os.Remove(m.path("/run/muster/"+settingsFile)), "as an agent of an earlier version")
	d = m.restarted(d)
	changed := with(worker(), func(s *Spec) { s.Env = map[string]string{"A": "secret"} })
	require.NoError(t, d.Apply(t.Context(), changed))
	require.Len(t, m.starts(), 1)
	noted, err := os.ReadFile(m.path("/run/muster/" + settingsFile))
	require.NoError(t, err)
	require.NotContains(t, string(noted), "secret")
	require.NoError(t, d.Stop(context.Background()))
}

func TestANewAgentTokenRestartsAServerWhenItIsItsTurn(t *testing.T) {
	m := newMachine(t)
	d := m.driver(fast)
	old := with(joiningServer(), func(s *Spec) { s.TokenEpoch = 1 })
	fresh := with(old, func(s *Spec) { s.AgentToken, s.TokenEpoch = "another", 2 })
	require.NoError(t, d.Apply(t.Context(), old))
	first := m.waitStarts(1)
	require.False(t, d.State().FormerToken)
	m.write(passwdFile, "from before")

	changed := d.Changed()
	require.NoError(t, d.Apply(t.Context(), fresh))
	<-changed
	require.True(t, d.State().FormerToken)
	require.EqualValues(t, 1, d.State().TokenEpoch)
	require.Len(t, m.starts(), 1)
	require.FileExists(t, m.path(passwdFile))
	d = m.restarted(d)
	require.NoError(t, d.Apply(t.Context(), fresh))
	require.True(t, d.State().FormerToken, "the next agent knows it too")
	require.EqualValues(t, 1, d.State().TokenEpoch)
	require.True(t, alive(first.PID))

	turn := with(fresh, func(s *Spec) { s.TakeToken = true })
	require.NoError(t, d.Apply(t.Context(), turn))
	require.False(t, d.State().FormerToken)
	require.EqualValues(t, 2, d.State().TokenEpoch)
	require.NoFileExists(t, m.path(passwdFile))
	require.False(t, d.State().Serving, "what was seen of the one before says nothing")
	m.waitStarts(2)
	require.False(t, alive(first.PID))
	require.NoError(t, d.Apply(t.Context(), turn))
	require.NoError(t, d.Apply(t.Context(), fresh))
	require.NoError(t, d.Apply(t.Context(), with(fresh, func(s *Spec) { s.TokenEpoch = 3 })))
	require.EqualValues(t, 3, d.State().TokenEpoch, "the same token is that of the next epoch too")
	require.Len(t, m.starts(), 2, "once")
	noted, err := os.ReadFile(m.path("/run/muster/" + settingsFile))
	require.NoError(t, err)
	require.NotContains(t, string(noted), "another")
	require.NoError(t, d.Stop(t.Context()))
}

func TestANewAgentTokenRestartsNoAgent(t *testing.T) {
	m := newMachine(t)
	d := m.driver(fast)
	require.NoError(t, d.Apply(t.Context(), worker()))
	m.waitStarts(1)
	require.NoError(t, d.Apply(t.Context(), with(worker(), func(s *Spec) { s.AgentToken, s.TakeToken = "another", true })))
	require.False(t, d.State().FormerToken)
	require.Len(t, m.starts(), 1)
	require.NoError(t, d.Stop(t.Context()))
}

func TestAServerWhoseAgentTokenNobodyNotedIsLeftRunning(t *testing.T) {
	m := newMachine(t)
	d := m.driver(fast)
	require.NoError(t, d.Apply(t.Context(), joiningServer()))
	m.waitStarts(1)
	path := m.path("/run/muster/" + settingsFile)
	noted, err := os.ReadFile(path)
	require.NoError(t, err)
	settings, _, _ := strings.Cut(string(noted), "\n")
	require.NoError(t, os.WriteFile(path, []byte(settings), 0o600), "as an agent of an earlier version")
	d = m.restarted(d)
	require.NoError(t, d.Apply(t.Context(), joiningServer()))
	require.Len(t, m.starts(), 1)
	require.False(t, d.State().FormerToken)
	fresh := with(joiningServer(), func(s *Spec) { s.AgentToken = "another" })
	require.NoError(t, d.Apply(t.Context(), fresh))
	require.True(t, d.State().FormerToken, "from now on it is known")
	require.NoError(t, d.Stop(t.Context()))
}
