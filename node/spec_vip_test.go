package node

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/node/k3s"
)

func TestTheAPIServersCertificateNamesTheSharedAddress(t *testing.T) {
	const base = "p2p:\n  network_token: x\n"
	address := netip.MustParseAddr("192.168.1.100")
	state := siteOfThree(ca)
	state.Policy.VIP = address
	spec := func(s situation) k3s.Spec {
		s.agentToken, s.serverToken, s.live, s.nodeIP = "a", "s", live, state.Addresses[s.self]
		spec, why := s.spec()
		require.Empty(t, why)
		require.NoError(t, spec.Validate())
		return spec
	}
	// The site's policy counts, whatever this node's configuration says.
	plain := testConfig(t, base)
	master := spec(situation{self: "ha1", state: state, config: plain})
	require.Equal(t, []string{"192.168.1.100"}, master.TLSSANs)
	require.Nil(t, master.KubeVIP)
	require.Equal(t, address, sharedAddress(state, plain))
	require.Equal(t, live, spec(situation{self: "worker", state: state, config: plain}).Join, "workers join a live master, not the address")

	kubeVIP := testConfig(t, base+"kubevip: {eip: 192.168.1.7, image: example.com/kube-vip}\n")
	state.Policy.VIP = netip.Addr{}
	master = spec(situation{self: "ha1", state: state, config: kubeVIP, vipInterface: "eth0"})
	require.Equal(t, []string{"192.168.1.7"}, master.TLSSANs)
	require.Equal(t, &k3s.KubeVIP{Address: netip.MustParseAddr("192.168.1.7"), Interface: "eth0", Image: "example.com/kube-vip", Version: "v1.2.3"}, master.KubeVIP)
	require.Nil(t, spec(situation{self: "worker", state: state, config: kubeVIP}).KubeVIP)
	require.False(t, sharedAddress(state, plain).IsValid())
}
