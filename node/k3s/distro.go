// Package k3s runs K3s in the role that the site gave this node.
//
// The agent speaks to it through Distro, so that another distribution can sit
// beside it. The driver writes K3s's own configuration files, keeps the process
// running under systemd, OpenRC or by itself, and reads K3s's own endpoints to
// tell whether the node is healthy; it decides nothing.
//
// # Configuration and restarts
//
// Apply writes configuration and starts K3s. It restarts a K3s that runs in the
// asked role in two cases: an earlier agent started it with other arguments,
// environment or settings of a person's; or the agent token was replaced and the
// spec says that it is this server's turn. What the site decides anew (whom to
// join, above all) is on disk for the next start, whoever makes it: systemd,
// supervise-daemon, or the driver itself.
//
// # A founding start that dies
//
// K3s may die between its start with cluster-init and the moment when the site
// commits the CA hash. It is then started again with cluster-init still in its
// configuration, on what it left on disk: with an etcd directory it resumes that
// cluster and ignores the flag, with a CA but no etcd it founds with that CA,
// and with neither it founds afresh. All three are safe, because nobody joins
// before the CA hash is committed and the driver reports a CA hash only from
// the file that the running server serves. After the commit the next Apply comes
// without ClusterInit and takes the flag out of the file, while K3s runs on. If
// the site gave the epoch to another node in between, this node is told so
// before it starts K3s, and wipes.
//
// # What is on the machine
//
// /etc/rancher/k3s/config.yaml.d/50-muster.yaml holds what the site decided,
// tokens included, mode 0600. config.yaml and other files beside it stay the
// user's, as long as they do not decide in the site's place. Units and drop-ins
// lie under /run, and so does the PID of a K3s without service manager: nothing
// of the driver's starts K3s at boot before the agent has asked what it is.
package k3s

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// Distro is what the agent needs of a Kubernetes distribution.
type Distro interface {
	// Apply makes the node run as spec says: binary, configuration, process. It
	// is idempotent. What runs already in the same role is restarted by the first
	// Apply, when a person has changed the configuration since, and for a new agent
	// token when TakeToken is set; anything else that changed is on disk for the next start.
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
	// ResetCluster stops a server and makes it the only member of its embedded
	// etcd, whoever the others were. It is idempotent, and starts nothing.
	ResetCluster(ctx context.Context, spec Spec) error
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
	// ClusterInit founds a new cluster with embedded etcd, and never together with
	// Join. It stays in the configuration until the founding start has come to its
	// end, which is the CA hash that the site commits; see the package comment.
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
	// KubeVIP is deployed by a server; nil: not.
	KubeVIP *KubeVIP
	// Args and Env are the user's, appended to ours; with ReplaceArgs they stand
	// in place of those of ours that are not reserved, which are the TLSSANs. We
	// set no variables, so that ReplaceEnv changes nothing.
	Args        []string
	Env         map[string]string
	ReplaceArgs bool
	ReplaceEnv  bool
	// TokenEpoch counts the site's tokens, the agent token among them. TakeToken
	// restarts a server that runs with another agent token.
	TokenEpoch uint64
	TakeToken  bool
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
	// FormerToken is set on a server that was started with another agent token than
	// that of the last Apply, and lets agents in by that. TokenEpoch is the last
	// Spec.TokenEpoch of the one that it lets them in by.
	FormerToken bool
	TokenEpoch  uint64
	// Waiting says in a sentence what is missing until the node is healthy.
	Waiting string
}

var (
	// ErrReserved is wrapped when the user's arguments or environment set what
	// the site decides.
	ErrReserved = errors.New("is decided by the site and may not be set")
	// ErrNoBinary is wrapped when there is no K3s to run.
	ErrNoBinary = errors.New("no k3s binary")
	// ErrForeignDisk is wrapped when a server is to go on with a cluster that is
	// not the one on its disk.
	ErrForeignDisk = errors.New("this node's disk does not hold the cluster")
)

// Validate refuses a spec that K3s would misunderstand.
func (s Spec) Validate() error {
	switch {
	case s.Role != Server && s.Role != Agent:
		return fmt.Errorf("K3s role %q is neither server nor agent", s.Role)
	case s.ClusterInit && s.Join != "":
		return errors.New("K3s cannot found a cluster and join one at once")
	case s.ClusterInit && s.DatastoreEndpoint != "":
		return errors.New("K3s cannot found a cluster with etcd beside an external datastore")
	case s.Role == Agent && (s.ClusterInit || s.DatastoreEndpoint != ""):
		return errors.New("a K3s agent has no datastore")
	case s.Role == Agent && s.Join == "":
		return errors.New("a K3s agent needs a server to join")
	case s.Role == Agent && s.KubeVIP != nil:
		return errors.New("a K3s agent deploys nothing")
	case s.KubeVIP != nil && !s.KubeVIP.Address.IsValid():
		return errors.New("kube-vip needs an address")
	case s.Role == Agent && s.ServerToken != "":
		return errors.New("a K3s agent must not hold the server token")
	case s.Role == Server && s.ServerToken == "":
		return errors.New("a K3s server needs the server token, or it makes up its own")
	case s.AgentToken == "":
		return errors.New("a K3s node needs the agent token")
	case !tokenText.MatchString(s.ServerToken + s.AgentToken):
		return errors.New("a K3s token is one word of printable ASCII")
	case s.ServerToken == s.AgentToken:
		return errors.New("server token and agent token are the same: an agent could make itself a server")
	case s.ClusterInit && s.CAHash != "":
		return errors.New("a cluster whose CA is known is not founded again")
	case s.Join != "" && s.CAHash == "":
		return errors.New("a K3s node joins only a cluster whose CA is known")
	case s.NodeName == "":
		return errors.New("a K3s node needs a name")
	}
	if s.CAHash != "" {
		if hash, err := hex.DecodeString(s.CAHash); err != nil || len(hash) != sha256.Size {
			return errors.New("the cluster CA's hash is not 64 hexadecimal digits")
		}
	}
	if s.Join != "" {
		if u, err := url.Parse(s.Join); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			return fmt.Errorf("%q is not the https URL of a server", s.Join)
		}
	}
	if _, err := s.argv(); err != nil {
		return err
	}
	for _, name := range sortedKeys(s.Env) {
		if !envName.MatchString(name) {
			return fmt.Errorf("k3s environment: %q is not the name of a variable", name)
		}
		if reservedEnv[name] {
			return fmt.Errorf("k3s environment %s %w", name, ErrReserved)
		}
		if strings.ContainsRune(s.Env[name], 0) {
			return fmt.Errorf("k3s environment %s holds a NUL", name)
		}
	}
	return nil
}

// tokenText is what survives K3s's token format, YAML and a user's terminal.
var tokenText = regexp.MustCompile(`^[!-~]+$`)

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// String says what the spec is about and keeps tokens, datastore, arguments and
// environment to itself.
func (s Spec) String() string {
	return fmt.Sprintf("K3s %s %q (cluster-init %t, join %q)", s.Role, s.NodeName, s.ClusterInit, s.Join)
}

// GoString is String, so that %#v keeps secrets too.
func (s Spec) GoString() string { return s.String() }

// LogValue is String for slog.
func (s Spec) LogValue() slog.Value { return slog.StringValue(s.String()) }
