package scenario

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// Two sites on one LAN have the same addresses inside and nothing in common.
func TestTwoTokensOnOneLANAreTwoSites(t *testing.T) {
	t.Parallel()
	bridge := onBridge(fmt.Sprintf("shared%d", os.Getpid()))
	red, blue := newConfig(t), newConfig(t)
	red.NoK3s, blue.NoK3s = true, true
	a := site(t, 2, red, bridge)
	b := site(t, 2, blue, bridge)
	a.waitReady(formTime)
	b.waitReady(formTime)

	// A newcomer that sees both finds its own.
	added, err := a.Add(t.Context(), 1)
	require.NoError(t, err)
	a.waitReady(formTime, added...)
	for s, size := range map[*testSite]int{a: 3, b: 2} {
		s.requireOneSite(size)
		for name := range s.rows() {
			list, err := s.Seen(t.Context(), name)
			require.NoError(t, err)
			require.Len(t, list, size, "whom %s sees", name)
		}
	}
	require.NotEqual(t, a.siteID("n1"), b.siteID("n1"))

	// They do share the LAN, or this would prove nothing.
	neighbour, err := b.NodeAddr("n1")
	require.NoError(t, err)
	a.run("n1", "ping", "-c", "1", "-w", "10", neighbour.String())
}

func TestTwoNetworkIDsUnderOneTokenAreTwoSites(t *testing.T) {
	t.Parallel()
	red := newConfig(t)
	red.NoK3s, red.NetworkID = true, "red"
	blue := red
	blue.NetworkID = "blue"
	s := site(t, 4, red, nodeConfig(t, "n3", blue), nodeConfig(t, "n4", blue))
	s.waitReady(formTime)
	s.requireSees("n1", "n1", "n2")
	s.requireSees("n2", "n1", "n2")
	s.requireSees("n3", "n3", "n4")
	s.requireSees("n4", "n3", "n4")
	require.Equal(t, s.siteID("n1"), s.siteID("n2"))
	require.Equal(t, s.siteID("n3"), s.siteID("n4"))
	require.NotEqual(t, s.siteID("n1"), s.siteID("n3"))
}

func (s *testSite) siteID(name string) string {
	s.t.Helper()
	status, err := s.status(name)
	require.NoError(s.t, err)
	require.NotEmpty(s.t, status.Site)
	return status.Site
}
