package scenario

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The address moves from a holder that is frozen, stays where it is when that one
// thaws, and moves from one that is cut off, before Kubernetes runs anywhere; and
// all the time it is on one node's links or on none's.
func TestS22TheVirtualAddressIsOnOneNodeWhateverBecomesOfItsHolder(t *testing.T) {
	t.Parallel()
	config := haConfig(t, 3)
	config.NoK3s, config.KubeVIP = true, ownVIP()
	s := site(t, 3, config, withoutK3sBinary)
	s.waitReady(formTime)
	watch := s.watchAddress(labVIP)
	nodes := []string{"n1", "n2", "n3"}
	others := func(name string) []string {
		return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == name })
	}

	first := watch.waitOn(nodes...)
	for _, name := range nodes {
		s.run(name, "ping", "-c", "1", "-w", "10", labVIP)
		// It is nobody's own address: no node is reached, or named, by it.
		require.NotEqual(t, labVIP, s.rows()[name].Underlay)
	}
	require.NotContains(t, s.run(others(first)[0], "muster", "nodes", "-o", "json"), labVIP)

	require.NoError(t, s.Signal(t.Context(), first, unix.SIGSTOP))
	second := watch.waitOn(others(first)...)
	s.run(second, "ping", "-c", "1", "-w", "10", labVIP)
	require.NoError(t, s.Signal(t.Context(), first, unix.SIGCONT))
	s.eventually(soonTime, "the frozen one knows whose it is", func() error {
		rows, err := s.ledger(first, "vip")
		if err == nil && (len(rows) != 1 || !holds(rows[0], s.rows()[second].ID)) {
			err = fmt.Errorf("%v", rows)
		}
		return err
	})
	require.Equal(t, second, watch.waitOn(nodes...), "it stays where it is")

	require.NoError(t, s.Partition(t.Context(), []string{second}, others(second)))
	third := watch.waitOn(others(second)...)
	s.run(others(second)[0], "ping", "-c", "1", "-w", "10", labVIP)
	require.NoError(t, s.Heal(t.Context()))
	s.waitReady(soonTime)
	s.run(second, "ping", "-c", "1", "-w", "10", labVIP)
	require.Equal(t, third, watch.waitOn(nodes...))
	watch.end()
}
