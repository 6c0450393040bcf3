package k3s

import (
	"os"
	"time"
)

// joinPatience is for how long K3s may try to join through one server while the
// site would have it join through another.
const joinPatience = time.Minute

// joining is the server through which K3s was started, and since when. K3s tries
// it for ever and does not read its configuration again. Once it was part of the
// cluster it knows the servers by itself.
type joining struct {
	server string // empty when there is none to join, or K3s was not started yet
	since  time.Time
	joined bool
}

// stuck tells whether K3s has to be started anew to join at all: the server that it
// was started with is most likely gone.
func (j joining) stuck(next string, now time.Time) bool {
	return !j.joined && j.server != "" && next != "" && next != j.server && now.Sub(j.since) >= joinPatience
}

// holdsCluster tells whether K3s has been given what the cluster gives its nodes: it
// has spoken to a server then.
func holdsCluster(root string, spec Spec) bool {
	if spec.Role == Agent {
		_, err := os.Stat(root + kubeletKubeconfig)
		return err == nil
	}
	hash, err := caHash(root + serverCA)
	return err == nil && hash == spec.CAHash
}
