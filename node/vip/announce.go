package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Announce tells the link's neighbours that address is here, so that they forget
// where it was: a gratuitous ARP request (RFC 5227 §3), or for IPv6 an
// unsolicited neighbour advertisement (RFC 4861 §7.2.6).
func Announce(link string, address netip.Addr) error {
	l, err := net.InterfaceByName(link)
	if err == nil && len(l.HardwareAddr) != macSize {
		err = errors.New("its neighbours are not found by Ethernet addresses")
	}
	if err != nil {
		return fmt.Errorf("announce virtual address %s on %s: %w", address, link, err)
	}
	if address.Is6() {
		err = sendFrame(l.Index, unix.ETH_P_IPV6, allNodesMAC[:], advertisementFrame(l.HardwareAddr, address))
	} else {
		err = sendFrame(l.Index, unix.ETH_P_ARP, broadcast[:], arpFrame(l.HardwareAddr, address))
	}
	if err != nil {
		return fmt.Errorf("announce virtual address %s on %s: %w", address, link, err)
	}
	return nil
}

const macSize = 6

var (
	broadcast   = [macSize]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodesMAC = [macSize]byte{0x33, 0x33, 0, 0, 0, 1}
	allNodes    = netip.MustParseAddr("ff02::1")
)

func arpFrame(mac net.HardwareAddr, address netip.Addr) []byte {
	ip := address.As4()
	f := ethernet(broadcast[:], mac, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, macSize, 4, 0, 1) // Ethernet, IPv4, their sizes, request
	f = append(append(f, mac...), ip[:]...)
	f = append(f, 0, 0, 0, 0, 0, 0)
	return append(f, ip[:]...)
}

func advertisementFrame(mac net.HardwareAddr, address netip.Addr) []byte {
	ip, to := address.As16(), allNodes.As16()
	icmp := []byte{136, 0, 0, 0, 0x20, 0, 0, 0} // neighbour advertisement, override
	icmp = append(icmp, ip[:]...)
	icmp = append(append(icmp, 2, 1), mac...) // target link-layer address, in units of 8 bytes
	pseudo := append(append([]byte{}, ip[:]...), to[:]...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(icmp)))
	pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(icmp[2:], checksum(append(pseudo, icmp...)))

	f := ethernet(allNodesMAC[:], mac, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(icmp)))
	f = append(f, unix.IPPROTO_ICMPV6, 255) // a hop limit below says that it came from afar
	f = append(append(f, ip[:]...), to[:]...)
	return append(f, icmp...)
}

func ethernet(to, from []byte, protocol uint16) []byte {
	f := make([]byte, 0, 128)
	f = append(append(f, to...), from...)
	return binary.BigEndian.AppendUint16(f, protocol)
}

// checksum is the Internet's (RFC 1071), of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func sendFrame(index int, protocol uint16, to, frame []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // 0: it receives nothing
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	address := &unix.SockaddrLinklayer{Ifindex: index, Protocol: protocol<<8 | protocol>>8, Halen: macSize}
	copy(address.Addr[:], to)
	return unix.Sendto(fd, frame, 0, address)
}
