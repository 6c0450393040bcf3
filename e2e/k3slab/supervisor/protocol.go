// Package supervisor is both ends of the protocol that K3s servers and agents
// speak beside the Kubernetes API, on the same port: fetching the cluster's CA,
// a joining server's bootstrap data, the datastore's members, and certificates
// for a node's kubelet.
//
// Paths and messages are written from knowledge of K3s, not compared with it: no
// test should assert on a message that only this package defines.
package supervisor

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
)

const (
	pathPing       = "/ping"
	pathCACerts    = "/cacerts"
	pathBootstrap  = "/v1-k3s/server-bootstrap"
	pathConfig     = "/v1-k3s/config"
	pathAPIServers = "/v1-k3s/apiservers"
	pathReadyz     = "/v1-k3s/readyz"
	pathClientCA   = "/v1-k3s/client-ca.crt"
	pathMembers    = "/db/info"

	headerNodeName     = "K3s-Node-Name"
	headerNodePassword = "K3s-Node-Password"
	headerNodeIP       = "K3s-Node-IP"

	maxBody = 4 << 20
)

// Certificate kinds that a node asks for.
const (
	ClientCertificate  = "client"
	ServingCertificate = "serving"
)

func pathCertificate(kind string) string { return "/v1-k3s/" + kind + "-kubelet.crt" }

// BootstrapFiles are the files below server/tls, and with them the identity of
// the cluster, that a joining server receives.
var BootstrapFiles = []string{
	"server-ca.crt", "server-ca.key", "client-ca.crt", "client-ca.key", "request-header-ca.crt", "request-header-ca.key",
	"etcd/server-ca.crt", "etcd/server-ca.key", "etcd/peer-ca.crt", "etcd/peer-ca.key", "service.key",
}

// Member is a member of the datastore as /db/info tells it.
type Member struct {
	ID         uint64   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Learner    bool     `json:"isLearner"`
}

// Config is the part of K3s' cluster configuration that agents read.
type Config struct {
	ClusterIPRange string
	ServiceIPRange string
	ClusterDNS     string
	ClusterDomain  string
	FlannelBackend string
}

var (
	// ErrRejected means that the other side answered and refuses: trying again
	// with the same token or against the same server cannot help.
	ErrRejected = errors.New("rejected")
	// ErrDatastoreDisabled means that a server has no datastore to join.
	ErrDatastoreDisabled = errors.New("etcd datastore disabled")
)

// status is the Kubernetes object in which errors travel.
type status struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Status     string `json:"status"`
	Message    string `json:"message"`
	Reason     string `json:"reason"`
	Code       int    `json:"code"`
}

// WriteStatus answers a request with an error, as the API server would.
func WriteStatus(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// The client has gone if this fails; there is nobody left to tell.
	_ = json.NewEncoder(w).Encode(status{
		Kind: "Status", APIVersion: "v1", Status: "Failure", Message: message, Code: code,
		Reason: strings.ReplaceAll(http.StatusText(code), " ", ""),
	})
}
