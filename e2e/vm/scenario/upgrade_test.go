package scenario

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/vm"
)

func TestAnUpgradeFromARegistryChangesTheVersionAndKeepsTheMachine(t *testing.T) {
	parallel(t)
	m := formed(t, vm.Options{})
	identity := m.identity()
	old := m.state()
	require.Equal(t, "active", old.Booted)
	require.Equal(t, "v1", old.Slots["active"].Version)

	v2 := bare.push(t, "v2")
	m.upgrade(v2)
	written := m.state()
	require.Equal(t, slot{Version: "v2", Digest: v2.digest()}, written.Slots["active"], "not tried yet")
	require.Equal(t, old.Slots["active"].Digest, written.Slots["passive"].Digest, "what runs is kept")
	require.Equal(t, "v1", m.version())

	m.reboot()
	m.waitReady()
	m.waitGood()
	require.Equal(t, "v2", m.version())
	require.Equal(t, identity, m.identity())
	s := m.state()
	require.Equal(t, "active", s.Booted)
	require.Equal(t, slot{Version: "v2", Digest: v2.digest(), Good: true}, s.Slots["active"])
	require.Equal(t, "v1", s.Slots["passive"].Version)
	require.Empty(t, s.FallbackReason)
	require.Empty(t, s.Quarantined)
	require.Equal(t, "good", s.LastUpgrade["outcome"])

	// By hand back to what ran before.
	m.sh("muster rollback")
	m.reboot()
	m.waitReady()
	require.Equal(t, "v1", m.version())
	require.Equal(t, identity, m.identity())
}
