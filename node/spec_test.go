package node

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/roles"
)

// siteOfThree is a site of two masters beside "init" and one worker, whose
// cluster has the given CA.
func siteOfThree(ca string) roles.State {
	policy := roles.DefaultPolicy()
	policy.HA, policy.AdditionalMasters = true, 2
	s := roles.State{
		Policy:    policy,
		Roles:     map[roles.NodeID]roles.Role{"init": roles.MasterInit, "ha1": roles.MasterHA, "ha2": roles.MasterHA, "worker": roles.Worker},
		Addresses: map[roles.NodeID]netip.Addr{},
		Names:     map[roles.NodeID]string{},
		Epoch:     &roles.Epoch{N: 1, Init: "init", CAHash: ca},
	}
	for i, id := range []roles.NodeID{"init", "ha1", "ha2", "worker"} {
		s.Addresses[id] = netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)})
		s.Names[id] = string(id)
	}
	return s
}

const live = "https://10.1.0.1:6443"

var ca = strings.Repeat("ab", 32)

func TestWhatK3sIsToBe(t *testing.T) {
	plain := testConfig(t, "p2p:\n  network_token: x\n")
	lan := testConfig(t, "p2p:\n  network_token: x\n  vpn: {use: false}\n")
	external := testConfig(t, "p2p:\n  network_token: x\n  auto: {ha: {enable: true, external_db: 'postgres://u:p@db/k3s'}}\n")
	externalSite := func(ca string) roles.State {
		s := siteOfThree(ca)
		s.Policy.ExternalDB = "postgres://db/k3s"
		return s
	}
	single := func(ca string) roles.State {
		s := siteOfThree(ca)
		s.Policy.HA, s.Policy.AdditionalMasters = false, 0
		s.Roles = map[roles.NodeID]roles.Role{"init": roles.Master, "worker": roles.Worker}
		return s
	}

	for name, c := range map[string]struct {
		situation
		want func(t *testing.T, s k3s.Spec)
		why  string
	}{
		"the init master's first start founds the cluster and joins nobody": {
			situation: situation{self: "init", state: siteOfThree(""), live: live},
			want: func(t *testing.T, s k3s.Spec) {
				require.True(t, s.ClusterInit)
				require.Empty(t, s.Join)
			},
		},
		"the init master leans on another server once its CA is committed": {
			situation: situation{self: "init", state: siteOfThree(ca), live: "https://10.1.0.2:6443"},
			want: func(t *testing.T, s k3s.Spec) {
				require.False(t, s.ClusterInit)
				require.Equal(t, "https://10.1.0.2:6443", s.Join)
				require.Equal(t, ca, s.CAHash)
			},
		},
		"the init master that lost its disk waits for a server like any other": {
			situation: situation{self: "init", state: siteOfThree(ca)},
			why:       "waiting for a master whose API server answers, to join its cluster: one of init, ha2",
		},
		"the only master that lost its disk founds no second cluster": {
			situation: situation{self: "init", state: single(ca)},
			why:       "this node's Kubernetes data is gone, and the site's cluster was nowhere else: restore /var/lib/rancher/k3s from a backup",
		},
		"the only master goes on from its disk": {
			situation: situation{self: "init", state: single(ca), knownCA: ca},
			want:      func(t *testing.T, s k3s.Spec) { require.Empty(t, s.Join) },
		},
		"the init master never founds again, also with nobody to join": {
			situation: situation{self: "init", state: siteOfThree(ca), knownCA: ca},
			want: func(t *testing.T, s k3s.Spec) {
				require.False(t, s.ClusterInit)
				require.Empty(t, s.Join)
			},
		},
		"another master joins a server that lives": {
			situation: situation{self: "ha1", state: siteOfThree(ca), live: live},
			want: func(t *testing.T, s k3s.Spec) {
				require.Equal(t, live, s.Join)
				require.False(t, s.ClusterInit)
				require.Equal(t, k3s.Server, s.Role)
				require.Equal(t, "ha1", s.NodeName)
				require.Equal(t, netip.MustParseAddr("10.1.0.2"), s.NodeIP)
			},
		},
		"another master waits for a server when its disk holds nothing of the cluster": {
			situation: situation{self: "ha1", state: siteOfThree(ca), knownCA: strings.Repeat("cd", 32)},
			why:       "waiting for a master whose API server answers, to join its cluster: one of init, ha2",
		},
		"after a power failure of the whole site a master goes on from its disk": {
			situation: situation{self: "ha1", state: siteOfThree(ca), knownCA: ca},
			want:      func(t *testing.T, s k3s.Spec) { require.Empty(t, s.Join) },
		},
		"a running master is not held up by the loss of all others": {
			situation: situation{self: "ha1", state: siteOfThree(ca), running: true},
			want:      func(t *testing.T, s k3s.Spec) { require.Empty(t, s.Join) },
		},
		"the only master has nobody to found with or to join": {
			situation: situation{self: "init", state: single(""), live: live},
			want: func(t *testing.T, s k3s.Spec) {
				require.False(t, s.ClusterInit)
				require.Empty(t, s.Join)
			},
		},
		"a worker joins, and never holds the server token": {
			situation: situation{self: "worker", state: siteOfThree(ca), live: live},
			want: func(t *testing.T, s k3s.Spec) {
				require.Equal(t, k3s.Agent, s.Role)
				require.Equal(t, live, s.Join)
				require.Empty(t, s.ServerToken)
				require.NotEmpty(t, s.AgentToken)
			},
		},
		"a worker waits for a master by name": {
			situation: situation{self: "worker", state: siteOfThree(ca), running: true},
			why:       "waiting for a master whose API server answers: one of init, ha2",
		},
		"Kubernetes on the mesh uses its interface": {
			situation: situation{self: "init", state: siteOfThree("")},
			want:      func(t *testing.T, s k3s.Spec) { require.Equal(t, interfaceName, s.FlannelInterface) },
		},
		"Kubernetes on the LAN chooses its own interface": {
			situation: situation{self: "init", state: siteOfThree(""), config: lan},
			want:      func(t *testing.T, s k3s.Spec) { require.Empty(t, s.FlannelInterface) },
		},
		"with an external datastore nobody founds": {
			situation: situation{self: "init", state: externalSite(""), config: external},
			want: func(t *testing.T, s k3s.Spec) {
				require.False(t, s.ClusterInit)
				require.Equal(t, "postgres://u:p@db/k3s", s.DatastoreEndpoint)
			},
		},
		"with an external datastore nobody joins": {
			situation: situation{self: "ha1", state: externalSite(ca), config: external, live: live},
			want:      func(t *testing.T, s k3s.Spec) { require.Empty(t, s.Join) },
		},
		"a master without the site's datastore in its configuration does not found its own": {
			situation: situation{self: "init", state: externalSite("")},
			why: "this node's configuration leads to another datastore than the site's (ha.external_db is unset instead of postgres://db/k3s): " +
				"set p2p.auto.ha.external_db as on the other masters",
		},
		"a master with a datastore that the site does not have does not use it": {
			situation: situation{self: "init", state: siteOfThree(""), config: external},
			why: "this node's configuration leads to another datastore than the site's (ha.external_db is postgres://db/k3s instead of unset): " +
				"set p2p.auto.ha.external_db as on the other masters",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.situation
			if s.config == nil {
				s.config = plain
			}
			s.nodeIP = s.state.Addresses[s.self]
			s.agentToken, s.serverToken = "agent", "server"
			s.masters, s.coordinator = "init, ha2", "ha2"
			spec, why := s.spec()
			require.Equal(t, c.why, why)
			if c.why != "" {
				return
			}
			require.NoError(t, spec.Validate())
			c.want(t, spec)
		})
	}
}

func TestAMissingTokenIsWaitedForByName(t *testing.T) {
	s := situation{self: "ha1", state: siteOfThree(ca), config: testConfig(t, "p2p:\n  network_token: x\n"), coordinator: "init", live: live}
	_, why := s.spec()
	require.Equal(t, "waiting for the coordinator init to seal the agent token to this node", why)
	s.agentToken = "agent"
	_, why = s.spec()
	require.Equal(t, "waiting for the coordinator init to seal the server token to this node", why)
}

func TestUserArgumentsAreThoseOfTheRole(t *testing.T) {
	c := testConfig(t, "p2p:\n  network_token: x\nk3s: {args: [--disable=traefik]}\nk3s-agent: {args: [--node-label=a=b]}\n")
	s := situation{self: "init", state: siteOfThree(ca), config: c, agentToken: "a", serverToken: "s", live: live}
	spec, _ := s.spec()
	require.EqualValues(t, []string{"--disable=traefik"}, spec.Args)
	s.self = "worker"
	spec, _ = s.spec()
	require.EqualValues(t, []string{"--node-label=a=b"}, spec.Args)
}

func TestLiveServer(t *testing.T) {
	serves := Facts{
		VPN:        VPNFacts{Underlay: netip.MustParseAddr("192.0.2.7")},
		Kubernetes: KubernetesFacts{Serving: true, CAHash: ca},
	}
	silent := Facts{Kubernetes: KubernetesFacts{CAHash: ca}}
	other := Facts{Kubernetes: KubernetesFacts{Serving: true, CAHash: strings.Repeat("cd", 32)}}
	for name, c := range map[string]struct {
		facts map[roles.NodeID]Facts
		self  roles.NodeID
		ca    string
		lan   bool
		want  string
	}{
		"the init master first":                    {facts: map[roles.NodeID]Facts{"ha1": serves, "init": serves}, self: "ha2", ca: ca, want: "https://10.1.0.1:6443"},
		"then the lowest ID":                       {facts: map[roles.NodeID]Facts{"ha1": serves, "ha2": serves, "init": silent}, self: "worker", ca: ca, want: "https://10.1.0.2:6443"},
		"never oneself":                            {facts: map[roles.NodeID]Facts{"init": serves}, self: "init", ca: ca},
		"nobody who is not seen":                   {self: "ha1", ca: ca},
		"nobody who does not serve":                {facts: map[roles.NodeID]Facts{"init": silent}, self: "ha1", ca: ca},
		"nobody of another cluster":                {facts: map[roles.NodeID]Facts{"init": other}, self: "ha1", ca: ca},
		"nobody before the CA is committed":        {facts: map[roles.NodeID]Facts{"init": {Kubernetes: KubernetesFacts{Serving: true}}}, self: "ha1"},
		"no worker":                                {facts: map[roles.NodeID]Facts{"worker": serves}, self: "ha1", ca: ca},
		"on the LAN by the address there":          {facts: map[roles.NodeID]Facts{"init": serves}, self: "ha1", ca: ca, lan: true, want: "https://192.0.2.7:6443"},
		"on the LAN nobody who has no address yet": {facts: map[roles.NodeID]Facts{"init": {Kubernetes: serves.Kubernetes}}, self: "ha1", ca: ca, lan: true},
	} {
		t.Run(name, func(t *testing.T) {
			look := func(id roles.NodeID) (Facts, bool) { f, ok := c.facts[id]; return f, ok }
			require.Equal(t, c.want, liveServer(siteOfThree(c.ca), c.self, !c.lan, look))
		})
	}
}
