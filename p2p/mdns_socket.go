package p2p

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// RFC 6762 §3.
var (
	mdnsGroup4 = netip.MustParseAddrPort("224.0.0.251:5353")
	mdnsGroup6 = netip.MustParseAddrPort("[ff02::fb]:5353")
)

// lanSocket is multicast DNS on the machine's interfaces, by IPv4, and by IPv6
// where an interface has no IPv4. Its sockets are bound to the group and not to
// the machine, so that they share the port with Avahi and systemd-resolved and
// take no unicast answer away from them.
type lanSocket struct {
	host interface{ Addrs() []multiaddr.Multiaddr }
	v4   *ipv4.PacketConn
	v6   *ipv6.PacketConn // nil where the kernel has no IPv6

	packets chan lanPacket
	wg      sync.WaitGroup
	done    chan struct{}

	mu     sync.Mutex
	joined map[int]bool // interface index
	lans   map[netip.Addr]lan
}

type lan struct {
	index int // of the interface
	port  uint16
}

type lanPacket struct {
	b    []byte
	from netip.Addr
}

func openMulticast(h *Host) (multicast, error) {
	v4, err := listenGroup(mdnsGroup4)
	if err != nil {
		return nil, err
	}
	s := &lanSocket{
		host: h, v4: ipv4.NewPacketConn(v4), packets: make(chan lanPacket), done: make(chan struct{}),
		joined: map[int]bool{}, lans: map[netip.Addr]lan{},
	}
	err = errors.Join(s.v4.SetMulticastLoopback(true), s.v4.SetMulticastTTL(255))
	v6, err6 := listenGroup(mdnsGroup6)
	if err6 == nil {
		s.v6 = ipv6.NewPacketConn(v6)
		err = errors.Join(err, s.v6.SetMulticastLoopback(true), s.v6.SetMulticastHopLimit(255))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open multicast DNS: %w", err), s.Close())
	}
	s.wg.Go(func() { s.receive(v4) })
	if v6 != nil {
		s.wg.Go(func() { s.receive(v6) })
	}
	return s, nil
}

// listenGroup binds to the group's own address, which takes the group's packets
// and no others. The net package would bind to the wildcard instead. So do we for
// IPv6, where Linux wants the group bound on one interface or not at all.
func listenGroup(group netip.AddrPort) (_ net.PacketConn, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open multicast DNS on %s: %w", group, err)
		}
	}()
	var addr unix.Sockaddr
	family := unix.AF_INET
	if group.Addr().Is4() {
		addr = &unix.SockaddrInet4{Port: int(group.Port()), Addr: group.Addr().As4()}
	} else {
		family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(group.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "mdns")
	// FilePacketConn works on a copy.
	defer func() { err = errors.Join(err, f.Close()) }()
	if family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	err = errors.Join(err,
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.Bind(fd, addr),
	)
	if err != nil {
		return nil, err
	}
	return net.FilePacketConn(f)
}

func (s *lanSocket) Refresh() bool {
	lans := hostLANs(s.host.Addrs())
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := !maps.Equal(lans, s.lans)
	s.lans = lans
	up := map[int]bool{}
	for addr, l := range lans {
		up[l.index] = true
		if s.joined[l.index] {
			continue
		}
		// An error is a group that was joined before the interface went down
		// and came back; the kernel remembers.
		ifi := &net.Interface{Index: l.index}
		if addr.Is4() {
			_ = s.v4.JoinGroup(ifi, net.UDPAddrFromAddrPort(mdnsGroup4))
		} else if s.v6 != nil {
			_ = s.v6.JoinGroup(ifi, net.UDPAddrFromAddrPort(mdnsGroup6))
		}
		s.joined[l.index] = true
	}
	maps.DeleteFunc(s.joined, func(index int, _ bool) bool { return !up[index] })
	return changed
}

func (s *lanSocket) Ports() map[netip.Addr]uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[netip.Addr]uint16, len(s.lans))
	for addr, l := range s.lans {
		out[addr] = l.port
	}
	return out
}

func (s *lanSocket) Send(packet []byte, from netip.Addr) error {
	s.mu.Lock()
	l, ok := s.lans[from]
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("send from %s: no such address any more", from)
	}
	var err error
	if from.Is4() {
		_, err = s.v4.WriteTo(packet, &ipv4.ControlMessage{IfIndex: l.index, Src: from.AsSlice()}, net.UDPAddrFromAddrPort(mdnsGroup4))
	} else if s.v6 != nil {
		_, err = s.v6.WriteTo(packet, &ipv6.ControlMessage{IfIndex: l.index, Src: from.AsSlice()}, net.UDPAddrFromAddrPort(mdnsGroup6))
	}
	return err
}

func (s *lanSocket) Receive(packet []byte) (int, netip.Addr, error) {
	select {
	case p := <-s.packets:
		return copy(packet, p.b), p.from, nil
	case <-s.done:
		return 0, netip.Addr{}, net.ErrClosed
	}
}

func (s *lanSocket) Close() error {
	close(s.done)
	err := s.v4.Close()
	if s.v6 != nil {
		err = errors.Join(err, s.v6.Close())
	}
	s.wg.Wait()
	return err
}

// receivePause keeps a socket that fails from spinning.
const receivePause = time.Second

// receive hands on the packets of one family until the socket is closed.
func (s *lanSocket) receive(conn net.PacketConn) {
	for {
		b := make([]byte, maxMDNSPacket+1) // one more, so that longer ones are seen to be
		n, from, err := conn.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		p := lanPacket{b: b[:n]}
		if udp, ok := from.(*net.UDPAddr); ok && err == nil {
			addr, _ := netip.AddrFromSlice(udp.IP)
			p.from = addr.Unmap()
			select {
			case s.packets <- p:
			case <-s.done:
				return
			}
			continue
		}
		select {
		case <-time.After(receivePause):
		case <-s.done:
			return
		}
	}
}

// hostLANs says from which of the host's addresses, on which interface, to
// announce which port. One address per interface is enough, IPv4 if there is one;
// link-local IPv6 is left out, for nobody could dial it without naming his own
// interface.
func hostLANs(addrs []multiaddr.Multiaddr) map[netip.Addr]lan {
	ports := map[netip.Addr]uint16{}
	for _, m := range addrs {
		ip, err := manet.ToIP(m)
		if err != nil {
			continue
		}
		number, err := m.ValueForProtocol(multiaddr.P_UDP)
		if err != nil {
			continue // the TCP address of the same port
		}
		port, err := strconv.ParseUint(number, 10, 16)
		addr, ok := netip.AddrFromSlice(ip)
		if err == nil && ok && !addr.IsLinkLocalUnicast() {
			ports[addr.Unmap()] = uint16(port)
		}
	}
	out := map[netip.Addr]lan{}
	interfaces, err := net.Interfaces()
	if err != nil {
		return out // looked at again soon
	}
	for _, ifi := range interfaces {
		const need = net.FlagUp | net.FlagMulticast
		if ifi.Flags&need != need || ifi.Flags&net.FlagLoopback != 0 {
			continue
		}
		var best netip.Addr
		own, err := ifi.Addrs()
		if err != nil {
			continue
		}
		for _, a := range own {
			prefix, err := netip.ParsePrefix(a.String())
			if err != nil || ports[prefix.Addr()] == 0 {
				continue
			}
			if !best.IsValid() || best.Is6() && prefix.Addr().Is4() {
				best = prefix.Addr()
			}
		}
		if best.IsValid() {
			out[best] = lan{index: ifi.Index, port: ports[best]}
		}
	}
	return out
}
