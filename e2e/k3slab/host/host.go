// Package host is what a server and an agent both need to know of the machine
// that they run on: its name, addresses and folders.
package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/muster-edge/muster/e2e/k3slab/flags"
)

// Host describes the machine as the command line and the kernel tell it.
type Host struct {
	Name        string
	IPs         []string // the first is the one that datastore and API advertise
	ExternalIPs []string
	DataDir     string
}

// Describe reads --node-name, --node-ip, --flannel-iface, --node-external-ip and
// --data-dir, with K3s' defaults.
func Describe(options *flags.Options) (Host, error) {
	dir, err := options.DataDir()
	if err != nil {
		return Host{}, err
	}
	name := options.Get("node-name", "")
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return Host{}, fmt.Errorf("find a node name: %w", err)
		}
	}
	h := Host{Name: strings.ToLower(name), IPs: options.Split("node-ip"), ExternalIPs: options.Split("node-external-ip"), DataDir: dir}
	for _, ip := range append(append([]string{}, h.IPs...), h.ExternalIPs...) {
		if _, err := netip.ParseAddr(ip); err != nil {
			return Host{}, fmt.Errorf("invalid node IP %q", ip)
		}
	}
	if len(h.IPs) == 0 {
		ip, err := defaultIP(options.Get("flannel-iface", ""))
		if err != nil {
			return Host{}, err
		}
		h.IPs = []string{ip}
	}
	return h, nil
}

// IP is the address that this node is known by.
func (h Host) IP() string { return h.IPs[0] }

// Pause waits for d and returns ctx's error if that ends first.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func defaultIP(device string) (string, error) {
	if device != "" {
		return deviceIP(device)
	}
	// Nothing is sent: connecting a UDP socket only looks up the route.
	conn, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		return "", fmt.Errorf("no usable node IP, set --node-ip: %w", err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

func deviceIP(device string) (string, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return "", fmt.Errorf("unable to find interface %s: %w", device, err)
	}
	addrs, err := i.Addrs()
	if err != nil {
		return "", fmt.Errorf("unable to read the addresses of %s: %w", device, err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("no IPv4 address on " + device)
}
