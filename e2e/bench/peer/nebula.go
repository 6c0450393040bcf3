package peer

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

var nebulaRange = netip.MustParsePrefix("10.77.0.0/24")

const nebulaPort = 4242

// Nebula is Nebula with its default MTU of 1300 and a static map of the nodes in place of a lighthouse.
type Nebula struct {
	site
	bin, cert string
}

// NewNebula returns Nebula, from the binaries nebula and nebula-cert. dir is a folder of its own, removed by Stop.
func NewNebula(bin, cert, dir string) *Nebula {
	return &Nebula{site: site{name: "nebula", dir: dir}, bin: bin, cert: cert}
}

// Start implements Peer.
func (n *Nebula) Start(ctx context.Context, nodes int) error {
	if err := n.open(ctx, nodes); err != nil {
		return err
	}
	authority := filepath.Join(n.dir, "ca.crt")
	authorityKey := filepath.Join(n.dir, "ca.key")
	if _, err := output(exec.CommandContext(ctx, n.cert, "ca", "-name", "bench", "-out-crt", authority, "-out-key", authorityKey)); err != nil {
		return fmt.Errorf("nebula: make authority: %w", err)
	}
	for i := 1; i <= nodes; i++ {
		folder := n.folder(i)
		_, err := output(exec.CommandContext(ctx, n.cert, "sign", "-name", fmt.Sprintf("n%d", i),
			"-networks", fmt.Sprintf("%s/%d", numbered(nebulaRange, i), nebulaRange.Bits()),
			"-ca-crt", authority, "-ca-key", authorityKey,
			"-out-crt", filepath.Join(folder, "node.crt"), "-out-key", filepath.Join(folder, "node.key")))
		if err != nil {
			return fmt.Errorf("nebula: sign node %d: %w", i, err)
		}
		if err := os.WriteFile(filepath.Join(folder, "config.yml"), []byte(n.config(i)), 0o600); err != nil {
			return fmt.Errorf("nebula: configure node %d: %w", i, err)
		}
	}
	for i := 1; i <= nodes; i++ {
		if err := n.run(i, nil, n.bin, "-config", "config.yml"); err != nil {
			return err
		}
	}
	return nil
}

// Join implements Peer.
func (n *Nebula) Join(ctx context.Context) (Joined, error) { return n.join(ctx, nebulaRange) }

func (n *Nebula) config(node int) string {
	var hosts []string
	for i := 1; i <= n.lan.Nodes(); i++ {
		if i != node {
			hosts = append(hosts, fmt.Sprintf("%q: [\"%s:%d\"]", numbered(nebulaRange, i), n.lan.Node(i).Address(), nebulaPort))
		}
	}
	return fmt.Sprintf(`pki: {ca: ../ca.crt, cert: node.crt, key: node.key}
static_host_map: {%s}
lighthouse: {am_lighthouse: false}
listen: {host: 0.0.0.0, port: %d}
tun: {dev: nebula0, mtu: 1300}
logging: {level: error}
firewall:
  outbound: [{port: any, proto: any, host: any}]
  inbound: [{port: any, proto: any, host: any}]
`, strings.Join(hosts, ", "), nebulaPort)
}
