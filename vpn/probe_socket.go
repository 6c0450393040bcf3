package vpn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// probeSocket sends and hears probes on WireGuard's own port, which the kernel's
// device has for itself: what routers have mapped for WireGuard, and nothing
// else, is what is to be found out. So it is a raw socket beside it. The kernel
// hands it copies of what passed the firewall, and only of probes.
type probeSocket struct {
	port uint16
	v4   *os.File
	v6   *os.File // nil where there is no IPv6
	wg   sync.WaitGroup
}

// openProbeSocket calls heard for every datagram that looks like a probe, from
// goroutines of its own, until close.
func openProbeSocket(port int, heard func(from netip.AddrPort, b []byte)) (*probeSocket, error) {
	s := &probeSocket{port: uint16(port)}
	v4, err := rawSocket(unix.AF_INET, s.port)
	if err != nil {
		return nil, fmt.Errorf("open probe socket: %w", err)
	}
	s.v4 = v4
	s.wg.Go(func() { s.hear(v4, 0, heard) })
	if v6, err := rawSocket(unix.AF_INET6, s.port); err == nil {
		s.v6 = v6
		s.wg.Go(func() { s.hear(v6, 0, heard) })
	}
	return s, nil
}

func rawSocket(family int, port uint16) (*os.File, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return nil, err
	}
	filter, err := probeFilter(family, port)
	if err == nil {
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, filter)
	}
	if err == nil && family == unix.AF_INET6 {
		// The kernel fills in the checksum, at its place in the UDP header.
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, 6)
	}
	if err != nil {
		_ = unix.Close(fd) // never used
		return nil, err
	}
	return os.NewFile(uintptr(fd), "probes"), nil
}

// probeFilter lets through UDP to that port whose payload begins with the magic.
// A raw IPv4 socket sees the IP header, an IPv6 one does not.
func probeFilter(family int, port uint16) (*unix.SockFprog, error) {
	load := func(off uint32, size int) bpf.Instruction { return bpf.LoadAbsolute{Off: off, Size: size} }
	var head []bpf.Instruction
	if family == unix.AF_INET {
		head = []bpf.Instruction{bpf.LoadMemShift{Off: 0}}
		load = func(off uint32, size int) bpf.Instruction { return bpf.LoadIndirect{Off: off, Size: size} }
	}
	raw, err := bpf.Assemble(append(head,
		load(2, 2),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(port), SkipTrue: 3},
		load(8, 4),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(probeMagic[:]), SkipTrue: 1},
		bpf.RetConstant{Val: 256},
		bpf.RetConstant{Val: 0},
	))
	if err != nil {
		return nil, err
	}
	program := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}, nil
}

const udpHeader = 8

func (s *probeSocket) hear(f *os.File, _ int, heard func(netip.AddrPort, []byte)) {
	raw, err := f.SyscallConn()
	if err != nil {
		return // closed already
	}
	buffer := make([]byte, 256)
	for {
		var n int
		var from unix.Sockaddr
		var rerr error
		if err := raw.Read(func(fd uintptr) bool {
			n, from, rerr = unix.Recvfrom(int(fd), buffer, 0)
			return !errors.Is(rerr, unix.EAGAIN)
		}); err != nil {
			return // closed
		}
		if rerr != nil {
			continue // of one datagram; the next may be sound
		}
		packet := buffer[:n]
		var addr netip.Addr
		switch from := from.(type) {
		case *unix.SockaddrInet4:
			addr = netip.AddrFrom4(from.Addr)
			if len(packet) < 20 || len(packet) < int(packet[0]&0xf)*4 {
				continue
			}
			packet = packet[int(packet[0]&0xf)*4:]
		case *unix.SockaddrInet6:
			addr = netip.AddrFrom16(from.Addr)
		}
		if len(packet) < udpHeader {
			continue
		}
		heard(netip.AddrPortFrom(addr, binary.BigEndian.Uint16(packet)), packet[udpHeader:])
	}
}

// send lets one probe out of WireGuard's port. That it cannot be sent is no more
// than that it does not arrive.
func (s *probeSocket) send(to netip.AddrPort, payload []byte) {
	packet := make([]byte, 0, udpHeader+len(payload))
	packet = binary.BigEndian.AppendUint16(packet, s.port)
	packet = binary.BigEndian.AppendUint16(packet, to.Port())
	packet = binary.BigEndian.AppendUint16(packet, uint16(udpHeader+len(payload)))
	packet = append(append(packet, 0, 0), payload...)
	if to.Addr().Is4() {
		source, err := sourceFor(to)
		if err != nil {
			return // no way there now
		}
		binary.BigEndian.PutUint16(packet[6:], udpChecksum(source, to.Addr(), packet))
		s.sendOn(s.v4, &unix.SockaddrInet4{Addr: to.Addr().As4()}, packet)
	} else if s.v6 != nil {
		s.sendOn(s.v6, &unix.SockaddrInet6{Addr: to.Addr().As16()}, packet)
	}
}

func (s *probeSocket) sendOn(f *os.File, to unix.Sockaddr, packet []byte) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.Sendto(int(fd), packet, unix.MSG_DONTWAIT, to) })
}

// close ends hearing and waits for it.
func (s *probeSocket) close() error {
	err := s.v4.Close()
	if s.v6 != nil {
		err = errors.Join(err, s.v6.Close())
	}
	s.wg.Wait()
	return err
}

// sourceFor asks the kernel which of our addresses it would send from.
func sourceFor(to netip.AddrPort) (netip.Addr, error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// udpChecksum is RFC 768's, over the pseudo header and the datagram.
func udpChecksum(from, to netip.Addr, datagram []byte) uint16 {
	a, b := from.As4(), to.As4()
	pseudo := append(a[:], b[:]...)
	pseudo = append(pseudo, 0, unix.IPPROTO_UDP)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(datagram)))
	var sum uint32
	for _, part := range [][]byte{pseudo, datagram} {
		for len(part) > 1 {
			sum += uint32(binary.BigEndian.Uint16(part))
			part = part[2:]
		}
		if len(part) == 1 {
			sum += uint32(part[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		return 0xffff // 0 would say that there is none
	}
	return ^uint16(sum)
}
