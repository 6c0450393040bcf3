package k3s

import (
	"context"
	"os"
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
