package scenario

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// A disk that is copied after its first boot, identity, decisions and cluster
// data included, is a new node in another machine. The one copied is the master,
// because a second one of those would hurt most.
func TestClonedDiskBecomesAnotherNode(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	// Until it gets the clone, n3 is on the LAN and in no site.
	other := newConfig(t)
	s := site(t, 3, config, nodeConfig(t, "n3", other))
	s.waitReady(readyTime, "n1", "n2")
	before := s.standings()
	master := s.byRole()["master"][0]

	require.NoError(t, s.CloneState(t.Context(), master, "n3"))
	require.NoError(t, s.Start(t.Context(), "n3"))
	s.waitReady(readyTime)
	s.waitKubeReady(readyTime)

	after := s.standings()
	require.Equal(t, before["n1"], after["n1"])
	require.Equal(t, before["n2"], after["n2"])
	clone := after["n3"]
	require.NotEqual(t, before[master].ID, clone.ID)
	require.NotEqual(t, before[master].Hostname, clone.Hostname)
	require.Equal(t, "worker", clone.Role)
	require.Equal(t, "10.1.0.3", clone.Address)
	s.requireOneSite(3)
	s.eventually(soonTime, "the original has nothing to say", func() error {
		if reason := s.rows()[master].Reason; reason != "" {
			return errors.New(reason)
		}
		return nil
	})
}
