package scenario

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLateNodeJoinsARunningSite(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.DNS = true
	s := site(t, 2, config)
	s.waitReady(readyTime)
	before := s.standings()

	added, err := s.Add(t.Context(), 1)
	require.NoError(t, err)
	s.waitReady(readyTime)
	s.waitKubeReady(readyTime)

	after := s.standings()
	late := after[added[0]]
	require.Equal(t, "worker", late.Role)
	require.Equal(t, "10.1.0.3", late.Address)
	delete(after, added[0])
	require.Equal(t, before, after, "a newcomer changes nobody")
	s.requireOneSite(3)
	for name := range before {
		s.run(name, "ping", "-c", "1", "-w", "10", late.Address)
		s.eventually(soonTime, name+" resolves the newcomer", func() error {
			_, err := s.Exec(t.Context(), name, "getent", "ahostsv4", late.Hostname)
			return err
		})
	}

	// Thrown out again, it is nothing in Kubernetes either.
	s.run(s.byRole()["master"][0], "muster", "node", "revoke", late.Hostname)
	s.eventually(soonTime, "Kubernetes has forgotten the revoked node", func() error {
		nodes, err := s.kubeNodes()
		if err == nil && len(nodes) != len(before) {
			err = fmt.Errorf("%v", nodes)
		}
		return err
	})
}
