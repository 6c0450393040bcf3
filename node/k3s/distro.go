// Package k3s runs K3s in the role that the site gave this node.
//
// The agent speaks to it through Distro, so that another distribution can sit
// beside it. The driver writes K3s's own configuration files, keeps the process
// running under systemd, OpenRC or by itself, and reads K3s's own endpoints to
// tell whether the node is healthy; it decides nothing.
package k3s

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Distro is what the agent needs of a Kubernetes distribution.
type Distro interface {
	// Apply makes the node run as spec says: binary, configuration, process. It
	// is idempotent. What runs already in the same role is not restarted:
	// changed configuration is on disk for the next start.
	Apply(ctx context.Context, spec Spec) error
	// State reports what was last observed, without waiting.
	State() State
	// Changed is closed at the next change of State.
	Changed() <-chan struct{}
	// Stop ends Kubernetes on this node and keeps its data.
	Stop(ctx context.Context) error
	// Wipe stops and then removes what ties this node to a cluster: datastore,
	// server and agent certificates, node password. Local volumes are moved
	// aside, and the path where they are now is returned ("" when there were
	// none).
	Wipe(ctx context.Context) (kept string, err error)
	// Close ends the driver and leaves Kubernetes running.
	Close() error
}

// Role is K3s's own word for what a node runs.
type Role string

// The roles of K3s.
const (
	Server Role = "server"
	Agent  Role = "agent"
)

// Spec is what a node is to run.
type Spec struct {
	Role Role
	// ClusterInit founds a new cluster with embedded etcd. It belongs in the
	// configuration for exactly one start, and never together with Join.
	ClusterInit bool
	// Join is the URL of a live server, "https://10.1.0.1:6443".
	Join string
	// ServerToken is set on servers; AgentToken on servers and agents. They are
	// different, so that an agent cannot make itself a server.
	ServerToken, AgentToken string
	// CAHash is the SHA-256 of the cluster CA in hex; with it a joining node
	// refuses any other cluster.
	CAHash   string
	NodeName string
	NodeIP   netip.Addr
	// FlannelInterface is the mesh's interface, or empty to let K3s choose.
	FlannelInterface  string
	DatastoreEndpoint string
	TLSSANs           []string
	EmbeddedRegistry  bool
	// Args and Env are the user's, appended to ours; with ReplaceArgs and
	// ReplaceEnv they stand in place of those of ours that are not reserved.
	Args        []string
	Env         map[string]string
	ReplaceArgs bool
	ReplaceEnv  bool
}

// State is what the driver sees of Kubernetes on this node.
type State struct {
	// Running is set while the K3s process lives.
	Running bool
	// Version as K3s prints it, "v1.36.3+k3s1".
	Version string
	// Serving is set while this server's own API answers /readyz.
	Serving bool
	// NodeReady is the Ready condition of this node's Node object.
	NodeReady bool
	// CAHash is the SHA-256 of the cluster CA in hex, empty until there is one.
	CAHash string
	// Waiting says in a sentence what is missing until the node is healthy.
	Waiting string
}

var (
	// ErrReserved is wrapped when the user's arguments or environment set what
	// the site decides.
	ErrReserved = errors.New("is decided by the site and may not be set")
	// ErrNoBinary is wrapped when there is no K3s to run.
	ErrNoBinary = errors.New("no k3s binary")
)

// reserved are the settings that the site decides (DESIGN §8). A node that sets
// one by itself would join another cluster, under another name, or twice.
var reserved = []string{
	"server", "token", "token-file", "agent-token", "agent-token-file", "cluster-init", "cluster-reset",
	"node-ip", "node-name", "with-node-id", "datastore-endpoint", "flannel-iface", "config", "embedded-registry", "data-dir",
}

// Validate refuses a spec that K3s would misunderstand.
func (s Spec) Validate() error {
	switch {
	case s.Role != Server && s.Role != Agent:
		return fmt.Errorf("K3s role %q is neither server nor agent", s.Role)
	case s.ClusterInit && s.Join != "":
		return errors.New("K3s cannot found a cluster and join one at once")
	case s.Role == Agent && (s.ClusterInit || s.DatastoreEndpoint != ""):
		return errors.New("a K3s agent has no datastore")
	case s.Role == Agent && s.Join == "":
		return errors.New("a K3s agent needs a server to join")
	case s.Role == Agent && s.ServerToken != "":
		return errors.New("a K3s agent must not hold the server token")
	case s.NodeName == "":
		return errors.New("a K3s node needs a name")
	}
	for _, arg := range s.Args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		for _, r := range reserved {
			if name == r {
				return fmt.Errorf("k3s argument --%s %w", name, ErrReserved)
			}
		}
	}
	for name := range s.Env {
		flag := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "K3S_")), "_", "-")
		for _, r := range append(reserved, "url") {
			if strings.HasPrefix(name, "K3S_") && flag == r {
				return fmt.Errorf("k3s environment %s %w", name, ErrReserved)
			}
		}
	}
	return nil
}
