package k3s

import (
	"os"
	"time"
)

// joinPatience is for how long K3s may try to join through one server while the
// site would have it join through another.
const joinPatience = time.Minute

// joining is the server through which K3s is to join, since when K3s runs, and
// whether that was another server once since. K3s reads its configuration at some
// time after its start, and tries the server that it finds there for ever.
type joining struct {
	server string // empty when there is none to join, or K3s was not started yet
	since  time.Time
	moved  bool
}

// through takes note of the server to join through.
func (j joining) through(server string) joining {
	if server != "" {
		j.moved = j.moved || j.server != "" && j.server != server
		j.server = server
	}
	return j
}

// overdue tells whether K3s may be trying a server that is gone.
func (j joining) overdue(now time.Time) bool { return j.moved && now.Sub(j.since) >= joinPatience }

// holdsCluster tells whether K3s has been given what the cluster gives its nodes: it
// has spoken to a server then, and learns of the others by itself.
func holdsCluster(root string, role Role) bool {
	path := serverCA
	if role == Agent {
		path = kubeletKubeconfig
	}
	_, err := os.Stat(root + path)
	return err == nil
}
