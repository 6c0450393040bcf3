package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Network is a segment in a network namespace of its own: a bridge that machines are plugged into, and DHCP. Nothing leads out of it. The
// namespace has no name; it goes with the process that made it.
type Network struct {
	ns     netns.NsHandle
	handle *netlink.Handle
	bridge netlink.Link
	dhcp   *exec.Cmd
	dir    string
	prefix netip.Prefix

	mu   sync.Mutex
	taps int
	macs int
}

// Host is the address of the harness on every segment, and DHCP's router: a registry that listens there is reached by guests.
var Host = netip.MustParseAddr("10.77.0.1")

// hostPrefix clears the mesh's range (10.1), pods (10.42) and services (10.43).
var hostPrefix = netip.PrefixFrom(Host, 24)

const bridgeName = "br0"

// NewNetwork makes a segment.
func NewNetwork(ctx context.Context) (*Network, error) {
	n := &Network{ns: netns.None(), prefix: hostPrefix}
	err := n.make()
	if err == nil {
		err = n.startDHCP(ctx)
	}
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("make a network: %w", err)
	}
	return n, nil
}

func (n *Network) make() error {
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		n.ns, err = netns.Get()
		return err
	})
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	if n.handle, err = netlink.NewHandleAt(n.ns); err != nil {
		return err
	}
	lo, err := n.handle.LinkByName("lo")
	if err == nil {
		err = n.handle.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	off := false
	// Every guest hears every multicast: mDNS must not wait for a querier.
	if err := n.handle.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}, MulticastSnooping: &off}); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if n.bridge, err = n.handle.LinkByName(bridgeName); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if err = n.handle.AddrAdd(n.bridge, &netlink.Addr{IPNet: &net.IPNet{IP: Host.AsSlice(), Mask: net.CIDRMask(n.prefix.Bits(), 32)}}); err == nil {
		err = n.handle.LinkSetUp(n.bridge)
	}
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	return nil
}

// startDHCP serves addresses .10 to .99.
func (n *Network) startDHCP(ctx context.Context) error {
	var err error
	if n.dir, err = os.MkdirTemp("", "vm-net-"); err != nil {
		return err
	}
	in := func(name string) string { return filepath.Join(n.dir, name) }
	line := n.inside([]string{
		"dnsmasq", "--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--port=0", "--no-ping",
		"--interface=" + bridgeName, "--bind-interfaces", "--dhcp-range=10.77.0.10,10.77.0.99,12h", "--dhcp-authoritative",
		"--pid-file=", "--dhcp-leasefile=" + in("leases"), "--log-facility=" + in("log"),
	})
	n.dhcp = exec.Command(line[0], line[1:]...)
	dieWithParent(n.dhcp)
	if err := n.dhcp.Start(); err != nil {
		n.dhcp = nil
		return fmt.Errorf("dnsmasq: %w", err)
	}
	return ctx.Err()
}

// inside returns the command line that runs another in the namespace. Not `ip netns exec`, which takes /sys away.
func (n *Network) inside(line []string) []string {
	return append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), int(n.ns)), "--"}, line...)
}

// Command returns a command that runs on the segment, as Host.
func (n *Network) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	line := n.inside(append([]string{name}, args...))
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	dieWithParent(cmd)
	return cmd
}

// Listen returns a listener on Host, e.g. for a registry.
func (n *Network) Listen(ctx context.Context, port int) (net.Listener, error) {
	var l net.Listener
	err := onThread(func() error {
		if err := netns.Set(n.ns); err != nil {
			return err
		}
		var err error
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(Host, uint16(port)).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on the segment: %w", err)
	}
	return l, nil
}

// Address returns the address that DHCP gave to a card, and whether it has given one.
func (n *Network) Address(mac string) (netip.Addr, bool) {
	leases, err := os.ReadFile(filepath.Join(n.dir, "leases"))
	if err != nil {
		return netip.Addr{}, false // none yet
	}
	for line := range bytes.Lines(leases) {
		fields := bytes.Fields(line) // expiry, MAC, address, …
		if len(fields) > 2 && bytes.EqualFold(fields[1], []byte(mac)) {
			a, err := netip.ParseAddr(string(fields[2]))
			return a, err == nil
		}
	}
	return netip.Addr{}, false
}

// Unplug takes the machine's cable out, or puts it in again.
func (n *Network) Unplug(m *Machine, out bool) error {
	link, err := n.handle.LinkByName(m.tap)
	if err == nil && out {
		err = n.handle.LinkSetNoMaster(link)
	} else if err == nil {
		err = n.handle.LinkSetMaster(link, n.bridge)
	}
	if err != nil {
		return fmt.Errorf("cable of %q: %w", m.opts.Name, err)
	}
	return nil
}

func (n *Network) nextMAC() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.macs++
	return fmt.Sprintf("52:54:00:4d:55:%02x", n.macs) // QEMU's range
}

func (n *Network) addTap() (string, error) {
	n.mu.Lock()
	n.taps++
	name := "tap" + strconv.Itoa(n.taps)
	n.mu.Unlock()
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP}
	// TUNSETIFF works in the namespace of the thread.
	err := onThread(func() error {
		if err := netns.Set(n.ns); err != nil {
			return err
		}
		return netlink.LinkAdd(tap)
	})
	var link netlink.Link
	if err == nil {
		link, err = n.handle.LinkByName(name)
	}
	if err == nil {
		err = n.handle.LinkSetMaster(link, n.bridge)
	}
	if err == nil {
		err = n.handle.LinkSetUp(link)
	}
	if err != nil {
		return "", fmt.Errorf("tap device: %w", err)
	}
	return name, nil
}

func (n *Network) removeTap(name string) {
	if link, err := n.handle.LinkByName(name); err == nil {
		_ = n.handle.LinkDel(link) // it goes with the namespace at the latest
	}
}

// Close ends the segment. Its machines are closed before.
func (n *Network) Close() {
	if n.dhcp != nil {
		_ = n.dhcp.Process.Kill() // how it ends does not matter
		_ = n.dhcp.Wait()
	}
	if n.handle != nil {
		n.handle.Close()
	}
	if n.ns.IsOpen() {
		_ = n.ns.Close() // only a descriptor
	}
	if n.dir != "" {
		_ = os.RemoveAll(n.dir) // in the folder for temporary files
	}
}

// onThread runs fn on a thread that may move into another network namespace, and comes back.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		err = fn()
		back := netns.Set(home)
		if back == nil {
			// Only then: a thread that stays elsewhere ends with its goroutine. One that ends takes along the processes that it started, so
			// fn starts none.
			runtime.UnlockOSThread()
		}
		done <- errors.Join(err, back)
	}()
	return <-done
}
