package roles

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// ErrRangeExhausted says that a range has given all its addresses. They are never reused, so only the operator can help.
var ErrRangeExhausted = errors.New("address range exhausted")

// smallestRange is the longest prefix that may be a mesh range: 6 addresses.
const smallestRange = 29

// kubernetesRanges are K3s's defaults for pods and services. A mesh that overlaps them cannot route to either.
var kubernetesRanges = []netip.Prefix{
	netip.MustParsePrefix("10.42.0.0/16"),
	netip.MustParsePrefix("10.43.0.0/16"),
}

// meshRanges are what genesis chooses from, in order. They are spread over all three private blocks, because a router that
// hands out 10.0.0.0/8 takes the whole first one, and stay off what home routers and Docker use by default. The last is
// shared address space (RFC 6598), which some carriers use on their side.
var meshRanges = []netip.Prefix{
	netip.MustParsePrefix("10.1.0.0/16"),
	netip.MustParsePrefix("10.101.0.0/16"),
	netip.MustParsePrefix("10.201.0.0/16"),
	netip.MustParsePrefix("172.30.0.0/16"),
	netip.MustParsePrefix("172.27.0.0/16"),
	netip.MustParsePrefix("192.168.208.0/20"),
	netip.MustParsePrefix("100.101.0.0/16"),
}

// AddrForCounter returns address number n of a range. Numbers start at 1; the network and the broadcast address are left
// out. A number that the range does not have is ErrRangeExhausted.
func AddrForCounter(r netip.Prefix, n uint64) (netip.Addr, error) {
	if !r.IsValid() || !r.Addr().Is4() {
		return netip.Addr{}, fmt.Errorf("address %d: range %s is not IPv4", n, rangeText(r))
	}
	if n == 0 {
		return netip.Addr{}, errors.New("address 0: numbers start at 1")
	}
	if n > capacity(r) {
		return netip.Addr{}, fmt.Errorf("address %d of %s: %w (%d addresses, never reused)", n, r, ErrRangeExhausted, capacity(r))
	}
	network := r.Masked().Addr().As4()
	var addr [4]byte
	binary.BigEndian.PutUint32(addr[:], binary.BigEndian.Uint32(network[:])+uint32(n))
	return netip.AddrFrom4(addr), nil
}

// capacity returns how many addresses an IPv4 range has, without network and broadcast.
func capacity(r netip.Prefix) uint64 {
	size := uint64(1) << (32 - r.Bits())
	if size < 4 {
		return 0
	}
	return size - 2
}

// checkRange returns why a range cannot be the mesh range of a site with at least nodes nodes, or nil.
func checkRange(r netip.Prefix, nodes int) error {
	switch {
	case !r.Addr().Is4():
		return fmt.Errorf("range %s is not IPv4", r)
	case r.Masked() != r:
		return fmt.Errorf("range %s has host bits set: did you mean %s?", r, r.Masked())
	case r.Bits() > smallestRange:
		return fmt.Errorf("range %s is too small: /%d at most", r, smallestRange)
	case r.Bits() < 8:
		return fmt.Errorf("range %s is too big: /8 at least", r)
	case capacity(r) < uint64(nodes):
		return fmt.Errorf("range %s has %d addresses, fewer than the %d nodes that found the site", r, capacity(r), nodes)
	}
	if taken, clash := overlap(r, kubernetesRanges); clash {
		return fmt.Errorf("range %s overlaps %s, which K3s uses for pods or services", r, taken)
	}
	return nil
}

// overlap returns the first of prefixes that shares an address with r.
func overlap(r netip.Prefix, prefixes []netip.Prefix) (netip.Prefix, bool) {
	for _, prefix := range prefixes {
		if r.Overlaps(prefix) {
			return prefix, true
		}
	}
	return netip.Prefix{}, false
}
