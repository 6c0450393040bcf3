package lab

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	roleSwitch    = "switch"
	defaultBridge = "lan0"
	// claimPrefix begins the names of the abstract sockets by which running labs know of each other: PREFIX/SUBNET/BRIDGE.
	// They need no file, and the kernel drops them with the process.
	claimPrefix = "@muster-lab/net/"
	claimLock   = "@muster-lab/lock"
)

// subnetMask is /16 for everybody, so that labs on one bridge reach each other without a router.
const subnetMask = 16

func subnetAddr(subnet, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{172, 30, byte(subnet), byte(host)})
}

const switchHost = 254

// portName is the switch's end of a node's cable.
func portName(subnet, number int) string { return fmt.Sprintf("p%d-n%d", subnet, number) }

func nodeMAC(subnet, number int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 'm', 'u', 's', byte(subnet), byte(number)} // 02: locally administered
}

// claim is one running lab as others see it.
type claim struct {
	subnet int
	bridge string // empty for a bridge that is not shared
	socket string
}

// startSwitch starts the process that holds the lab's network namespace, and makes the bridge in it. On an error nothing is left.
func (l *Lab) startSwitch(ctx context.Context, s *state) (err error) {
	unlock, err := lockClaims(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	claims, err := readClaims()
	if err != nil {
		return err
	}
	if s.Subnet, err = freeSubnet(l.dir, claims); err != nil {
		return err
	}
	shared := ""
	join := process{} // the holder of the network namespace to join
	if s.Shared {
		shared = s.Bridge
		for _, c := range claims {
			if c.bridge == shared {
				if join, err = c.holder(); err != nil {
					return fmt.Errorf("find the switch of bridge %q: %w", shared, err)
				}
				break
			}
		}
	}
	socket, err := bindClaim(claimPrefix + strconv.Itoa(s.Subnet) + "/" + shared)
	if err != nil {
		return fmt.Errorf("claim 172.30.%d.0/24: %w", s.Subnet, err)
	}
	defer socket.Close()

	var born *seed
	if join.PID == 0 {
		born, err = spawn(s.Binary, roleSwitch, l.dir, roleSwitch, syscall.CLONE_NEWNET, socket)
	} else {
		err = InNetNS(netNSPath(join), func() error {
			born, err = spawn(s.Binary, roleSwitch, l.dir, roleSwitch, 0, socket)
			return err
		})
	}
	if err != nil {
		return err
	}
	s.Switch = born.process
	if err := s.save(l.dir); err != nil {
		born.drop()
		return err
	}
	if err := born.grow(ctx, roleSwitch, struct{}{}); err != nil {
		return err
	}
	return s.setUpBridge()
}

// initSwitch is the switch's process: it holds the network namespace and the claim, and does nothing else.
func initSwitch() (func() error, error) {
	// Listening is what makes this process the one that SO_PEERCRED names.
	if err := unix.Listen(claimFD, 1); err != nil {
		return nil, fmt.Errorf("listen on the claim: %w", err)
	}
	return untilTerminated, nil
}

// untilTerminated keeps a process that only holds a namespace: it ends by SIGTERM, not with the terminal.
func untilTerminated() error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
	return nil
}

func (s *state) setUpBridge() error {
	h, err := s.netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := linkUp(h, "lo"); err != nil {
		return err
	}
	off := false // snooping would drop groups that nobody queries for: there is no multicast router here
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: s.Bridge}, MulticastSnooping: &off}
	if err := h.LinkAdd(bridge); err != nil && !(s.Shared && errors.Is(err, os.ErrExist)) {
		return fmt.Errorf("make bridge %s: %w", s.Bridge, err)
	}
	link, err := h.LinkByName(s.Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", s.Bridge, err)
	}
	if err := addAddr(h, link, subnetAddr(s.Subnet, switchHost)); err != nil {
		return err
	}
	return linkUp(h, s.Bridge)
}

// leaveBridge takes the lab's part out of a switch that others go on using.
func (s *state) leaveBridge() error {
	h, err := s.netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	var errs []error
	for _, n := range s.Nodes {
		errs = append(errs, removeLink(h, splicedName(s.Subnet, n.Number)), removeLink(h, portName(s.Subnet, n.Number)))
	}
	if link, err := h.LinkByName(s.Bridge); err == nil {
		addr := &netlink.Addr{IPNet: ipNet(subnetAddr(s.Subnet, switchHost))}
		if err := h.AddrDel(link, addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("remove the address of bridge %s: %w", s.Bridge, err))
		}
	}
	s.Partition, s.OneWay = nil, false
	for _, n := range s.Nodes {
		n.Loss, n.Drop = 0, DropNone
	}
	return errors.Join(append(errs, s.writeFilter())...)
}

// plug lays a cable from the switch into the network namespace of a node that was just started. Whatever is left of the cable
// of its earlier life is removed first: the kernel removes it too, but not at once.
func (s *state) plug(n *node) error {
	if n.NAT != NATNone {
		return s.plugIntoRouter(n)
	}
	h, err := s.netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	return s.cable(h, n, n.Init.PID, nodeLink)
}

// cable connects the node's port of the switch to the network namespace of pid, where the other end is called name.
func (s *state) cable(h *netlink.Handle, n *node, pid int, name string) error {
	port := portName(s.Subnet, n.Number)
	if err := removeLink(h, port); err != nil {
		return err
	}
	bridge, err := h.LinkByName(s.Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", s.Bridge, err)
	}
	inside, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("network namespace of %s: %w", n.Name, err)
	}
	defer inside.Close()
	cable := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: port, MasterIndex: bridge.Attrs().Index, TxQLen: 1000},
		PeerName:         name,
		PeerHardwareAddr: nodeMAC(s.Subnet, n.Number),
		PeerNamespace:    netlink.NsFd(inside),
	}
	if err := h.LinkAdd(cable); err != nil {
		return fmt.Errorf("connect %s to bridge %s: %w", n.Name, s.Bridge, err)
	}
	if n.Cut {
		return nil
	}
	return linkUp(h, port)
}

// unplug removes the node's cable.
func (s *state) unplug(n *node) error {
	if n.NAT != NATNone {
		return s.unplugFromRouter(n)
	}
	h, err := s.netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	return removeLink(h, portName(s.Subnet, n.Number))
}

// netlink returns a handle into the switch's namespace.
func (s *state) netlink() (*netlink.Handle, error) {
	ns, err := netns.GetFromPid(s.Switch.PID)
	if err != nil || !s.Switch.alive() {
		if err == nil {
			_ = ns.Close() // only looked at
		}
		return nil, errors.New("the lab's switch has ended: `muster lab up` starts anew")
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, fmt.Errorf("netlink in the switch: %w", err)
	}
	return h, nil
}

func linkUp(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("link %s up: %w", name, err)
	}
	return nil
}

func removeLink(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return nil
	}
	if err == nil {
		err = h.LinkDel(link)
	}
	// The kernel may have removed it in between.
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

func addAddr(h *netlink.Handle, link netlink.Link, addr netip.Addr) error {
	return addMaskedAddr(h, link, addr, subnetMask)
}

func addMaskedAddr(h *netlink.Handle, link netlink.Link, addr netip.Addr, mask int) error {
	network := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(mask, 32)}
	if err := h.AddrReplace(link, &netlink.Addr{IPNet: network}); err != nil {
		return fmt.Errorf("address %s on %s: %w", addr, link.Attrs().Name, err)
	}
	return nil
}

func ipNet(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(subnetMask, 32)}
}

// lockClaims keeps two labs from claiming at once.
func lockClaims(ctx context.Context) (unlock func(), err error) {
	for {
		socket, err := bindClaim(claimLock)
		if err == nil {
			return func() { _ = socket.Close() }, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("lock the labs of this machine: %w", err)
		}
		if err := pause(ctx, pollInterval); err != nil {
			return nil, fmt.Errorf("wait for another lab to start: %w", err)
		}
	}
}

func bindClaim(name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		_ = unix.Close(fd) // never used
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func readClaims() ([]claim, error) {
	// Not /proc/net, which is that of the process's first thread: that one may have gone into a node's namespace for good
	// (see onThread), and shows no other lab then.
	table, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return nil, fmt.Errorf("list running labs: %w", err)
	}
	var claims []claim
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if c, ok := parseClaim(fields[len(fields)-1]); ok && !slices.Contains(claims, c) {
			claims = append(claims, c)
		}
	}
	return claims, nil
}

func parseClaim(socket string) (claim, bool) {
	rest, ok := strings.CutPrefix(socket, claimPrefix)
	if !ok {
		return claim{}, false
	}
	number, bridge, ok := strings.Cut(rest, "/")
	subnet, err := strconv.Atoi(number)
	if !ok || err != nil || subnet < 0 || subnet > 255 {
		return claim{}, false
	}
	return claim{subnet: subnet, bridge: bridge, socket: socket}, true
}

// holder returns the process that listens on the claim.
func (c claim) holder() (process, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return process{}, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: c.socket}); err != nil {
		return process{}, err
	}
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return process{}, err
	}
	return identify(int(peer.Pid))
}

// freeSubnet starts from a hash of dir, so that a lab usually keeps its addresses, and takes the next that nobody runs.
func freeSubnet(dir string, claims []claim) (int, error) {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(dir)) // never fails
	first := int(hash.Sum32() % 255)
	for i := range 255 { // 172.30.255.0/24 would hold the broadcast address of the /16
		subnet := (first + i) % 255
		if !slices.ContainsFunc(claims, func(c claim) bool { return c.subnet == subnet }) {
			return subnet, nil
		}
	}
	return 0, errors.New("255 labs are up on this machine: no part of 172.30.0.0/16 is free")
}
