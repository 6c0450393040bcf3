package node

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/roles"
)

// apiPort is where K3s servers listen.
const apiPort = "6443"

// situation is all that a node's K3s depends on.
type situation struct {
	self   roles.NodeID
	state  roles.State
	config *config.Config
	// nodeIP is the address that Kubernetes knows this node by.
	nodeIP netip.Addr
	// serverToken and agentToken are empty while they are not sealed to this node.
	serverToken, agentToken string
	// live is the URL of another master that serves, or empty.
	live string
	// running is set while K3s runs here, and knownCA is the cluster that this
	// node's disk belongs to.
	running bool
	knownCA string
	// vipInterface is where kube-vip keeps its address, or empty to leave that to it.
	vipInterface string
	// masters and coordinator name nodes in sentences.
	masters, coordinator string
}

// spec returns what K3s is to be on this node, or else a sentence that says why
// it cannot be said yet.
func (s situation) spec() (k3s.Spec, string) {
	role := s.state.Roles[s.self]
	settings := s.config.K3s
	if role == roles.Worker {
		settings = s.config.K3sAgent
	}
	spec := k3s.Spec{
		Role: k3s.Server, NodeName: s.state.Names[s.self], NodeIP: s.nodeIP,
		AgentToken: s.agentToken, Args: settings.Args, Env: settings.Env,
		ReplaceArgs: settings.ReplaceArgs, ReplaceEnv: settings.ReplaceEnv,
	}
	if s.state.Epoch != nil {
		spec.CAHash = s.state.Epoch.CAHash
	}
	if onMesh(s.config) {
		spec.FlannelInterface = interfaceName
	}
	if s.agentToken == "" {
		return spec, "waiting for the coordinator " + s.coordinator + " to seal the agent token to this node"
	}
	if role == roles.Worker {
		spec.Role, spec.Join = k3s.Agent, s.live
		if s.live == "" {
			return spec, "waiting for a master whose API server answers: one of " + s.masters
		}
		return spec, ""
	}
	if s.serverToken == "" {
		return spec, "waiting for the coordinator " + s.coordinator + " to seal the server token to this node"
	}
	spec.ServerToken = s.serverToken
	if address := sharedAddress(s.state, s.config); address.IsValid() {
		spec.TLSSANs = append(spec.TLSSANs, address.String())
	}
	if v := s.config.KubeVIP; v.Enable {
		spec.KubeVIP = &k3s.KubeVIP{
			Address: v.EIP, Interface: s.vipInterface, Image: v.Image, Version: v.Version, StaticPod: v.StaticPod, ManifestURL: v.ManifestURL,
		}
	}
	spec.EmbeddedRegistry = s.config.K3s.EmbeddedRegistry
	return spec, s.datastore(&spec, role)
}

// datastore makes a master found the cluster, join it, or go on from what its
// disk holds. cluster-init stands in the configuration until the cluster's CA is
// committed and never again: a server that founds twice is a second cluster
// (history S2).
func (s situation) datastore(spec *k3s.Spec, role roles.Role) string {
	if why := s.wrongDatastore(); why != "" {
		return why
	}
	spec.DatastoreEndpoint = s.config.P2P.Auto.HA.ExternalDB.Reveal()
	init := s.state.Epoch != nil && s.state.Epoch.Init == s.self
	// A server with nobody to join and nothing on disk makes a new cluster.
	here := s.running || spec.CAHash != "" && s.knownCA == spec.CAHash
	switch {
	case spec.DatastoreEndpoint != "":
		// The datastore is what the servers share; none of them joins another.
	case role == roles.Master && (spec.CAHash == "" || here):
		// The one master for life keeps its data in SQLite and has nobody to join.
	case role == roles.Master:
		return "this node's Kubernetes data is gone, and the site's cluster was nowhere else: restore /var/lib/rancher/k3s from a backup"
	case init && spec.CAHash == "":
		spec.ClusterInit = true
	case s.live != "":
		spec.Join = s.live
	case here:
		// Nobody to name: after a power failure of the whole site the servers
		// find each other by what etcd has on disk.
	default:
		return "waiting for a master whose API server answers, to join its cluster: one of " + s.masters
	}
	return ""
}

// wrongDatastore refuses to start a server on another datastore than the
// site's: it would be a cluster of its own. The policy names the datastore
// without its credentials, which every master has in its own configuration.
func (s situation) wrongDatastore() string {
	own := s.state.Policy
	own.ExternalDB = s.config.P2P.Auto.HA.ExternalDB.Reveal()
	drift := own.Drift(s.state.Policy)
	if len(drift) == 0 {
		return ""
	}
	return fmt.Sprintf("this node's configuration leads to another datastore than the site's (%s): set p2p.auto.ha.external_db as on the other masters", strings.Join(drift, ", "))
}

// onMesh tells whether Kubernetes uses the mesh's addresses.
func onMesh(c *config.Config) bool { return c.P2P.VPN.Create && c.P2P.VPN.Use }

// liveServer returns the URL of another master that serves the site's cluster,
// the init master first and then by ID, so that all nodes lean on the same one.
// It is empty when there is none. look returns a node's facts while gossip sees
// the node alive.
func liveServer(state roles.State, self roles.NodeID, mesh bool, look func(roles.NodeID) (Facts, bool)) string {
	if state.Epoch == nil || state.Epoch.CAHash == "" {
		return ""
	}
	var masters []roles.NodeID
	for id, role := range state.Roles {
		if role.IsMaster() && id != self {
			masters = append(masters, id)
		}
	}
	slices.SortFunc(masters, func(a, b roles.NodeID) int {
		switch {
		case a == state.Epoch.Init:
			return -1
		case b == state.Epoch.Init:
			return 1
		}
		return strings.Compare(string(a), string(b))
	})
	var server string
	var epoch uint64
	for _, id := range masters {
		f, alive := look(id)
		if !alive || !f.Kubernetes.Serving || f.Kubernetes.CAHash != state.Epoch.CAHash {
			continue
		}
		address := state.Addresses[id]
		if !mesh {
			address = f.VPN.Underlay
		}
		// One with a former agent token lets no worker in.
		if address.IsValid() && (server == "" || f.Kubernetes.TokenEpoch > epoch) {
			server, epoch = "https://"+net.JoinHostPort(address.String(), apiPort), f.Kubernetes.TokenEpoch
		}
	}
	return server
}
