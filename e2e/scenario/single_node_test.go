package scenario

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOneNodeIsASiteWhenOneIsEnough(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.MinimumNodes = 1
	s := site(t, 1, config)
	s.waitReady(readyTime)
	require.Equal(t, map[string][]string{"master": {"n1"}}, s.byRole())
	s.requireOneSite(1)
	s.waitKubeReady(readyTime)

	// With nobody to ask it still comes back, from its own disk.
	before := s.standings()
	require.NoError(t, s.Restart(t.Context()))
	s.waitReady(readyTime)
	s.waitKubeReady(readyTime)
	require.Equal(t, before, s.standings())
}

// The default is two: one machine alone does nothing that cannot be undone.
func TestOneNodeAloneWaitsForAnother(t *testing.T) {
	t.Parallel()
	s := site(t, 1, newConfig(t))
	t.Log(s.waitWhy(soonTime, "n1", "2"))
	status, err := s.status("n1")
	require.NoError(t, err)
	require.Empty(t, status.Site)
	require.Empty(t, status.Role)
	require.Empty(t, status.Address)
}
