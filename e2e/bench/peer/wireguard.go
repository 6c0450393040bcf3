package peer

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// wireguardMTU is 1500 less what WireGuard adds over IPv6 (40 + 8 + 32), the default of wg-quick.
const wireguardMTU = "1420"

const wireguardPort = "51820"

var wireguardRange = netip.MustParsePrefix("10.99.0.0/24")

// WireGuard is plain wireguard-go, configured by hand: the ceiling for a mesh whose data plane is WireGuard in user
// space.
type WireGuard struct {
	site
	bin string
}

// NewWireGuard returns wireguard-go, from its binary. dir is a folder of its own, removed by Stop.
func NewWireGuard(bin, dir string) *WireGuard {
	return &WireGuard{site: site{name: "wireguard-go", dir: dir}, bin: bin}
}

// Start implements Peer.
func (w *WireGuard) Start(ctx context.Context, nodes int) error {
	if err := w.open(ctx, nodes); err != nil {
		return err
	}
	keys := make([]*ecdh.PrivateKey, nodes)
	for i := range keys {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return fmt.Errorf("wireguard-go: make key: %w", err)
		}
		keys[i] = key
	}
	for i := 1; i <= nodes; i++ {
		if err := w.run(i, []string{"LOG_LEVEL=error"}, w.bin, "-f", w.device(i)); err != nil {
			return err
		}
	}
	for i := 1; i <= nodes; i++ {
		if err := w.configure(ctx, i, keys); err != nil {
			return err
		}
	}
	return nil
}

// Join implements Peer.
func (w *WireGuard) Join(ctx context.Context) (Joined, error) { return w.join(ctx, wireguardRange) }

// device returns the name of a node's device. It carries the driver's process ID because the control sockets in
// /var/run/wireguard are named for the device and shared by all namespaces of the host. The kernel allows 15 bytes.
func (w *WireGuard) device(node int) string { return fmt.Sprintf("mb%dw%d", os.Getpid(), node) }

func (w *WireGuard) configure(ctx context.Context, node int, keys []*ecdh.PrivateKey) error {
	device := w.device(node)
	socket := filepath.Join("/var/run/wireguard", device+".sock")
	err := until(ctx, 10*time.Millisecond, func() (bool, error) {
		_, err := os.Stat(socket)
		return err == nil, w.alive()
	})
	if err != nil {
		return fmt.Errorf("wireguard-go: wait for %s: %w", socket, err)
	}
	secret := filepath.Join(w.folder(node), "key")
	if err := os.WriteFile(secret, []byte(encode(keys[node-1].Bytes())), 0o600); err != nil {
		return fmt.Errorf("wireguard-go: write key: %w", err)
	}
	set := []string{"wg", "set", device, "private-key", secret, "listen-port", wireguardPort}
	for other, key := range keys {
		if other+1 == node {
			continue
		}
		set = append(set, "peer", encode(key.PublicKey().Bytes()),
			"allowed-ips", numbered(wireguardRange, other+1).String()+"/32",
			"endpoint", w.lan.Node(other+1).Address().String()+":"+wireguardPort)
	}
	for _, argv := range [][]string{
		set,
		{"ip", "addr", "add", numbered(wireguardRange, node).String() + "/" + strconv.Itoa(wireguardRange.Bits()), "dev", device},
		{"ip", "link", "set", device, "mtu", wireguardMTU, "up"},
	} {
		if _, err := output(w.Command(ctx, node, argv...)); err != nil {
			return fmt.Errorf("wireguard-go: configure node %d: %w", node, err)
		}
	}
	return nil
}

func encode(key []byte) string { return base64.StdEncoding.EncodeToString(key) }
