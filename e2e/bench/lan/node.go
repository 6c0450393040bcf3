package lan

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
)

// Node is one machine of a LAN.
type Node struct {
	namespace string
	address   netip.Addr
}

// Namespace returns the path of the node's network namespace, for Inside.
func (n *Node) Namespace() string { return directory + n.namespace }

// Address returns the node's address on the underlay, out of 192.168.80.0/24.
func (n *Node) Address() netip.Addr { return n.address }

// Command prepares a command that runs inside the node. The process ID of the started command is that of argv itself,
// because nsenter replaces itself by it.
func (n *Node) Command(ctx context.Context, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + n.Namespace(), "--"}, argv...)...)
}

// Read returns a file of /proc/net as the node sees it, e.g. Read("dev").
func (n *Node) Read(name string) ([]byte, error) {
	var content []byte
	err := Inside(n.Namespace(), func() (err error) {
		content, err = os.ReadFile("/proc/thread-self/net/" + name)
		return err
	})
	return content, err
}
