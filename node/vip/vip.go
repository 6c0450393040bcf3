// Package vip puts an address on one of this machine's links for a bounded time.
//
// The time is the kernel's (valid_lft): when nobody renews it, because the
// process that should is stopped, killed, or has lost the right to, the kernel
// removes the address by itself and answers for it no longer. Who may hold an
// address, and for how long, is not decided here.
package vip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoLink is wrapped when no link of this machine can carry an address.
var ErrNoLink = errors.New("no link for it")

// Link returns the name of the link that carries address: the one called wanted,
// or, when that is empty, the one with a network that the address is in.
func Link(wanted string, address netip.Addr) (string, error) {
	if wanted != "" {
		l, err := net.InterfaceByName(wanted)
		if err != nil || l.Flags&net.FlagUp == 0 {
			return "", fmt.Errorf("virtual address %s: interface %s is not there or not up: %w", address, wanted, ErrNoLink)
		}
		return l.Name, nil
	}
	links, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("virtual address %s: %w", address, err)
	}
	for _, l := range links {
		if l.Flags&net.FlagUp == 0 || l.Flags&net.FlagLoopback != 0 || l.Flags&net.FlagPointToPoint != 0 {
			continue
		}
		addresses, err := l.Addrs()
		if err != nil {
			continue // the link vanished between the two calls
		}
		for _, a := range addresses {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Bits() < p.Addr().BitLen() && p.Contains(address) {
				return l.Name, nil
			}
		}
	}
	return "", fmt.Errorf("virtual address %s: no interface has a network that it is in: %w", address, ErrNoLink)
}

// Hold puts address on the link, or renews it, for seconds more at most.
func Hold(link string, address netip.Addr, seconds int) error {
	if seconds < 1 {
		return fmt.Errorf("hold virtual address %s: for %d seconds, want 1 or more", address, seconds)
	}
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("hold virtual address %s on %s: %w", address, link, err)
	}
	a := kernelAddr(address)
	// Deprecated from the start: the kernel chooses it for nothing that this
	// machine sends of itself, where it has a choice.
	a.ValidLft, a.PreferedLft = seconds, 0
	a.Flags = unix.IFA_F_NOPREFIXROUTE
	if address.Is6() {
		a.Flags |= unix.IFA_F_NODAD // that nobody else has it is the lease's business
	}
	if err := netlink.AddrReplace(l, a); err != nil {
		return fmt.Errorf("hold virtual address %s on %s: %w", address, link, err)
	}
	return nil
}

// Drop removes address from every link that has it for a bounded time. An
// address that somebody gave to this machine for good is left alone.
func Drop(address netip.Addr) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("drop virtual address %s: %w", address, err)
	}
	var all error
	for _, l := range links {
		addresses, err := netlink.AddrList(l, family(address))
		if err != nil {
			continue // the link vanished between the two calls, and with it its addresses
		}
		for _, a := range addresses {
			ip, ok := netip.AddrFromSlice(a.IP)
			if !ok || ip.Unmap() != address || a.Flags&unix.IFA_F_PERMANENT != 0 {
				continue
			}
			if err := netlink.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, os.ErrNotExist) {
				all = errors.Join(all, fmt.Errorf("drop virtual address %s from %s: %w", address, l.Attrs().Name, err))
			}
		}
	}
	return all
}

func kernelAddr(address netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(address.BitLen(), address.BitLen())}}
}

func family(address netip.Addr) int {
	if address.Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}
