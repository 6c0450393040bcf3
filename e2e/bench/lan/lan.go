// Package lan makes the network that every peer is measured on: one bridge, and on it N machines that are network
// namespaces with one veth each. It is the same shape as Muster's own lab (e2e/lab), so that figures of both can stand
// in one table.
//
// Everything is named mb-PID-LABEL-…, with the process ID of the driver, so that runs do not meet each other and
// Sweep can tell the leftovers of a killed run from the namespaces of a live one.
package lan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// Link is the name of the underlay interface inside each node.
const Link = "eth0"

const (
	prefix    = "mb-"
	directory = "/run/netns/"
)

// LAN is one bridge and the nodes on it. Nodes are counted from 1.
type LAN struct {
	name  string
	nodes []*Node
}

// New builds a LAN of the given number of nodes (1 to 250). The label keeps several LANs of one driver apart. On
// error nothing is left behind.
func New(ctx context.Context, label string, nodes int) (*LAN, error) {
	if nodes < 1 || nodes > 250 {
		return nil, fmt.Errorf("build LAN %q: %d nodes, want 1 to 250", label, nodes)
	}
	l := &LAN{name: prefix + strconv.Itoa(os.Getpid()) + "-" + label}
	for i := 1; i <= nodes; i++ {
		l.nodes = append(l.nodes, &Node{
			namespace: fmt.Sprintf("%s-n%d", l.name, i),
			address:   netip.AddrFrom4([4]byte{192, 168, 80, byte(i)}),
		})
	}
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("build LAN %q: %w", label, err), l.Close())
	}
	return l, nil
}

// Node returns node i, counted from 1.
func (l *LAN) Node(i int) *Node { return l.nodes[i-1] }

// Nodes returns how many nodes the LAN has.
func (l *LAN) Nodes() int { return len(l.nodes) }

// Close ends what still runs in the LAN's namespaces and removes them. It may be called twice.
func (l *LAN) Close() error {
	var failures []error
	for _, node := range l.nodes {
		failures = append(failures, remove(node.namespace))
	}
	return errors.Join(append(failures, remove(l.bridge()))...)
}

func (l *LAN) bridge() string { return l.name + "-sw" }

func (l *LAN) build(ctx context.Context) error {
	bridge := l.bridge()
	commands := []string{
		"netns add " + bridge,
		"-n " + bridge + " link add br0 type bridge",
		"-n " + bridge + " link set br0 up",
	}
	for i, node := range l.nodes {
		port := fmt.Sprintf("p%d", i+1)
		in := "-n " + node.namespace + " "
		commands = append(commands,
			"netns add "+node.namespace,
			in+"link set lo up",
			fmt.Sprintf("link add %s netns %s type veth peer name %s netns %s", Link, node.namespace, port, bridge),
			fmt.Sprintf("-n %s link set %s master br0 up", bridge, port),
			fmt.Sprintf("%saddr add %s/24 dev %s", in, node.address, Link),
			in+"link set "+Link+" up",
			// Without a default route multicast, and with it mDNS, has nowhere to go.
			in+"route add 224.0.0.0/4 dev "+Link,
		)
	}
	for _, command := range commands {
		if err := ip(ctx, command); err != nil {
			return err
		}
	}
	return nil
}

func ip(ctx context.Context, command string) error {
	output, err := exec.CommandContext(ctx, "ip", strings.Fields(command)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", command, err, strings.TrimSpace(string(output)))
	}
	return nil
}
