package k3s

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOnlyAK3sThatHasNotJoinedIsStuckAtItsServer(t *testing.T) {
	const old, next = "https://10.1.0.2:6443", "https://10.1.0.1:6443"
	begun := time.Now()
	j := joining{server: old, since: begun}
	late := begun.Add(joinPatience)
	require.True(t, j.stuck(next, late))
	require.False(t, j.stuck(next, late.Add(-time.Second)), "a join takes its time")
	require.False(t, j.stuck(old, late))
	require.False(t, j.stuck("", late), "there is nobody else")
	require.False(t, joining{since: begun}.stuck(next, late), "it founded the cluster")
	j.joined = true
	require.False(t, j.stuck(next, late))
}

func TestAK3sThatIsStuckAtADeadServerIsStartedWithAnother(t *testing.T) {
	m := newMachine(t)
	d := m.driver(fast)
	first := joiningServer()
	second := with(first, func(s *Spec) { s.Join = "https://10.1.0.9:6443" })
	require.NoError(t, d.Apply(t.Context(), first))
	before := m.waitStarts(1)
	require.NoError(t, d.Apply(t.Context(), second))
	require.Len(t, m.starts(), 1, "it may be about to join")

	d.mu.Lock()
	d.joining.since = d.joining.since.Add(-joinPatience)
	d.mu.Unlock()
	require.NoError(t, d.Apply(t.Context(), second))
	m.waitStarts(2)
	require.False(t, alive(before.PID))
	require.NoError(t, d.Apply(t.Context(), first))
	require.Len(t, m.starts(), 2, "each server gets its time")
	require.NoError(t, d.Stop(t.Context()))
}
