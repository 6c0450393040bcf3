package peer

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func open(t *testing.T, name string, nodes int) *site {
	s := &site{name: name, dir: filepath.Join(t.TempDir(), name)}
	t.Cleanup(func() { require.NoError(t, s.Stop()) })
	require.NoError(t, s.open(t.Context(), nodes))
	return s
}

func TestSiteIsJoinedOnceEveryKernelHasAnAddressOfTheMesh(t *testing.T) {
	s := open(t, "joins", 2)
	mesh := netip.MustParsePrefix("10.99.0.0/24")
	for i := 1; i <= 2; i++ {
		require.NoError(t, s.run(i, []string{"WHO=" + numbered(mesh, i).String()},
			"sh", "-c", `sleep 0.2; ip addr add "$WHO/24" dev eth0; exec sleep 3600`))
	}
	joined, err := s.join(t.Context(), mesh)
	require.NoError(t, err)
	require.Equal(t, addresses("10.99.0.1", "10.99.0.2"), joined.Addresses)
	require.Positive(t, joined.Took)

	pid, err := s.Process(t.Context(), 2)
	require.NoError(t, err)
	require.Positive(t, pid)
	require.NoError(t, s.Stop())
	require.NoDirExists(t, s.dir)
}

func TestSiteWhoseProcessEndsSaysItsLastWords(t *testing.T) {
	s := open(t, "dies", 1)
	require.NoError(t, s.run(1, nil, "sh", "-c", "echo no tun device; exit 7"))
	_, err := s.join(t.Context(), netip.MustParsePrefix("10.99.0.0/24"))
	require.ErrorContains(t, err, "dies: wait until every node is joined: process of node 1 has ended")
	require.ErrorContains(t, err, "exit status 7: no tun device")
}

func TestPeersProcessesDoNotInheritTheDriversEnvironment(t *testing.T) {
	t.Setenv("EDGEVPNTOKEN", "of somebody else")
	s := open(t, "env", 1)
	require.NoError(t, s.run(1, []string{"GIVEN=1"}, "env"))
	<-s.processes[0].Done()
	printed, err := os.ReadFile(filepath.Join(s.folder(1), "log"))
	require.NoError(t, err)
	require.Contains(t, string(printed), "GIVEN=1\n")
	require.NotContains(t, string(printed), "EDGEVPNTOKEN")
}

func TestVethIsJoinedAtOnceAndHasNoProcess(t *testing.T) {
	v := NewVeth(filepath.Join(t.TempDir(), "veth"))
	t.Cleanup(func() { require.NoError(t, v.Stop()) })
	require.NoError(t, v.Start(t.Context(), 2))
	joined, err := v.Join(t.Context())
	require.NoError(t, err)
	require.Equal(t, addresses("192.168.80.1", "192.168.80.2"), joined.Addresses)
	_, err = v.Process(t.Context(), 1)
	require.ErrorIs(t, err, ErrNoProcess)
}

func TestNebulaNodesKnowAllOthers(t *testing.T) {
	n := NewNebula("nebula", "nebula-cert", filepath.Join(t.TempDir(), "nebula"))
	t.Cleanup(func() { require.NoError(t, n.Stop()) })
	require.NoError(t, n.open(t.Context(), 3))
	require.Contains(t, n.config(2), `static_host_map: {"10.77.0.1": ["192.168.80.1:4242"], "10.77.0.3": ["192.168.80.3:4242"]}`)
}

func TestWireGuardDeviceNameFitsTheKernel(t *testing.T) {
	w := NewWireGuard("wireguard", t.TempDir())
	require.LessOrEqual(t, len(w.device(250)), 15)
}
