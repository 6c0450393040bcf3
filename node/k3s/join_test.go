package k3s

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAK3sThatIsStuckAtADeadServerIsStartedWithAnother(t *testing.T) {
	m := newMachine(t)
	d := m.driver(fast)
	first := joiningServer()
	second := with(first, func(s *Spec) { s.Join = "https://10.1.0.9:6443" })
	late := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.joining.since = d.joining.since.Add(-joinPatience)
	}
	require.NoError(t, d.Apply(t.Context(), first))
	before := m.waitStarts(1)
	late()
	require.NoError(t, d.Apply(t.Context(), first))
	require.Len(t, m.starts(), 1, "there is no other server")
	require.NoError(t, d.Apply(t.Context(), second))
	m.waitStarts(2)
	require.False(t, alive(before.PID))

	require.NoError(t, d.Apply(t.Context(), first))
	require.NoError(t, d.Apply(t.Context(), second))
	require.Len(t, m.starts(), 2, "it may be about to join")
	late()
	require.NoError(t, d.Apply(t.Context(), second))
	m.waitStarts(3) // whichever of the two it has read

	require.NoError(t, d.Apply(t.Context(), first))
	late()
	m.write(serverCA, "of the cluster")
	require.NoError(t, d.Apply(t.Context(), first))
	require.Len(t, m.starts(), 3, "it has spoken to a server")
	require.NoError(t, d.Stop(t.Context()))
}
