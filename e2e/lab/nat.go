package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// NAT is what kind of router a node is behind.
type NAT string

const (
	NATNone NAT = "" // on the switch itself
	// NATFull maps a port to the same port for everybody and lets everybody in ("full cone", or a port that was forwarded).
	NATFull NAT = "full"
	// NATRestricted maps a port to one port for everybody and lets in who was sent to, by address and port: what most homes and
	// branches have (Linux's masquerade; RFC 4787 calls it address and port-dependent filtering).
	NATRestricted NAT = "restricted"
	// NATSymmetric maps a port to another one for each destination, and lets in that destination alone: mobile networks.
	NATSymmetric NAT = "symmetric"
)

func (n NAT) valid() bool {
	return n == NATNone || n == NATFull || n == NATRestricted || n == NATSymmetric
}

// Every router has the same network behind it, as boxes out of one factory do: an address of it says nothing about whose it is.
var (
	natNode   = netip.MustParseAddr("192.168.1.2")
	natRouter = netip.MustParseAddr("192.168.1.1")
)

const (
	natMask    = 24
	roleRouter = "router"
	routerWAN  = "wan0" // to the switch
	routerLAN  = "lan0" // to the node
)

// ParseNAT reads the command line's list of nodes behind NAT: NUMBER or NUMBER:KIND each; the kind is restricted if not said.
func ParseNAT(values []string) (map[string]NAT, error) {
	all := map[string]NAT{}
	for _, value := range values {
		number, kind, said := strings.Cut(value, ":")
		if !said {
			kind = string(NATRestricted)
		}
		n, err := strconv.Atoi(strings.TrimPrefix(number, "n"))
		if err != nil || n < 1 || n > MaxNodes {
			return nil, fmt.Errorf("%w: --nat %q: want the number of a node, or NUMBER:KIND", ErrUsage, value)
		}
		if NAT(kind) == NATNone || !NAT(kind).valid() {
			return nil, fmt.Errorf("%w: --nat %q: kind %q is none of full, restricted, symmetric", ErrUsage, value, kind)
		}
		if _, twice := all[nodeName(n)]; twice {
			return nil, fmt.Errorf("%w: --nat %q: node %d twice", ErrUsage, value, n)
		}
		all[nodeName(n)] = NAT(kind)
	}
	return all, nil
}

// routerTask is what a router's process is told; all else is done to its namespace from outside.
type routerTask struct{}

// initRouter is the router's process: it lets its namespace forward packets, and holds it.
func initRouter(raw []byte) (func() error, error) {
	var task routerTask
	if err := json.Unmarshal(raw, &task); err != nil {
		return nil, fmt.Errorf("read task: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return nil, fmt.Errorf("forward packets: %w", err)
	}
	return untilTerminated, nil
}

// switchOnRouter starts the router of a node that is behind one, unless it runs: routers stay on when their nodes are off.
func (l *Lab) switchOnRouter(ctx context.Context, s *state, n *node) error {
	if n.NAT == NATNone || n.Router.alive() {
		return nil
	}
	name := "router-" + n.Name
	born, err := spawn(s.Binary, roleRouter, l.dir, name, syscall.CLONE_NEWNET, nil)
	if err != nil {
		return err
	}
	n.Router = born.process
	if err := s.save(l.dir); err != nil {
		born.drop()
		return err
	}
	if err := born.grow(ctx, name, routerTask{}); err != nil {
		return err
	}
	if err := s.cableRouter(n); err != nil {
		return fmt.Errorf("router of %s: %w", n.Name, err)
	}
	if err := writeNAT(n.Router.PID, n.NAT); err != nil {
		return fmt.Errorf("router of %s: %w", n.Name, err)
	}
	return nil
}

// cableRouter connects a router to the switch, in the place and with the address that its node would have.
func (s *state) cableRouter(n *node) error {
	h, err := s.netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := s.cable(h, n, n.Router.PID, routerWAN); err != nil {
		return err
	}
	inside, err := handleAt(n.Router.PID)
	if err != nil {
		return err
	}
	defer inside.Close()
	if err := linkUp(inside, "lo"); err != nil {
		return err
	}
	wan, err := inside.LinkByName(routerWAN)
	if err != nil {
		return fmt.Errorf("find %s: %w", routerWAN, err)
	}
	if err := addAddr(inside, wan, n.addr(s.Subnet)); err != nil {
		return err
	}
	if err := linkUp(inside, routerWAN); err != nil {
		return err
	}
	if err := inside.RouteReplace(&netlink.Route{LinkIndex: wan.Attrs().Index, Gw: subnetAddr(s.Subnet, switchHost).AsSlice()}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return nil
}

// plugIntoRouter lays the cable from a router to its node, which was just started.
func (s *state) plugIntoRouter(n *node) error {
	h, err := handleAt(n.Router.PID)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := removeLink(h, routerLAN); err != nil {
		return err
	}
	inside, err := netns.GetFromPid(n.Init.PID)
	if err != nil {
		return fmt.Errorf("network namespace of %s: %w", n.Name, err)
	}
	defer inside.Close()
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: routerLAN, TxQLen: 1000},
		PeerName:  nodeLink, PeerHardwareAddr: nodeMAC(s.Subnet, n.Number), PeerNamespace: netlink.NsFd(inside),
	}
	if err := h.LinkAdd(cable); err != nil {
		return fmt.Errorf("connect %s to its router: %w", n.Name, err)
	}
	link, err := h.LinkByName(routerLAN)
	if err != nil {
		return fmt.Errorf("find %s: %w", routerLAN, err)
	}
	if err := addMaskedAddr(h, link, natRouter, natMask); err != nil {
		return err
	}
	return linkUp(h, routerLAN)
}

func (s *state) unplugFromRouter(n *node) error {
	if !n.Router.alive() {
		return nil
	}
	h, err := handleAt(n.Router.PID)
	if err != nil {
		return err
	}
	defer h.Close()
	return removeLink(h, routerLAN)
}

// handleAt returns a handle into the network namespace of a process.
func handleAt(pid int) (*netlink.Handle, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, fmt.Errorf("network namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, fmt.Errorf("netlink in process %d: %w", pid, err)
	}
	return h, nil
}

// ForgetMappings gives a node's router a restart: what it had mapped is gone, and what comes in then is nobody's.
func (l *Lab) ForgetMappings(ctx context.Context, name string) error {
	return l.change(ctx, func(s *state) error {
		n, err := s.node(name)
		if err != nil {
			return err
		}
		if n.NAT == NATNone {
			return fmt.Errorf("%w: %s is not behind a router", ErrUsage, name)
		}
		return flushMappings(n.Router)
	})
}

// SetNAT makes a node's router one of another kind, as a change of provider does.
func (l *Lab) SetNAT(ctx context.Context, name string, kind NAT) error {
	return l.change(ctx, func(s *state) error {
		n, err := s.node(name)
		if err != nil {
			return err
		}
		if n.NAT == NATNone || kind == NATNone || !kind.valid() {
			return fmt.Errorf("%w: the router of %s cannot become %q", ErrUsage, name, kind)
		}
		n.NAT = kind
		return errors.Join(writeNAT(n.Router.PID, kind), flushMappings(n.Router))
	})
}

// labHosts names every place on the switch, nI.lab, in the form of /etc/hosts: a node behind a router hears no multicast of the
// others, and its configuration has to say where to look before the lab has chosen its addresses.
func labHosts(subnet int) string {
	var b strings.Builder
	for i := 1; i <= MaxNodes; i++ {
		fmt.Fprintf(&b, "%s %s.lab\n", subnetAddr(subnet, i), nodeName(i))
	}
	fmt.Fprintf(&b, "%s switch.lab\n", subnetAddr(subnet, switchHost))
	return b.String()
}
