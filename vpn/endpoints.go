package vpn

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// endpointWalk goes through a peer's candidate endpoints until one answers.
type endpointWalk struct {
	candidates []netip.AddrPort
	at         int
	tried      bool
	begun      time.Time
}

// offer replaces the candidates and keeps the place of the one in use. It
// returns whether the endpoint to use changed.
func (w *endpointWalk) offer(candidates []netip.AddrPort) bool {
	if slices.Equal(w.candidates, candidates) {
		return false
	}
	was, had := w.current()
	w.candidates = slices.Clone(candidates)
	if i := slices.Index(w.candidates, was); had && i >= 0 {
		w.at = i
		return false
	}
	w.at, w.tried = 0, false
	_, has := w.current()
	return has
}

func (w *endpointWalk) current() (netip.AddrPort, bool) {
	if len(w.candidates) == 0 {
		return netip.AddrPort{}, false
	}
	return w.candidates[w.at], true
}

// next gives the candidate in use its first chance, then moves to the one after
// it, around and around: an endpoint that was dead may be alive again. It
// returns false for a first chance, which needs no new start.
func (w *endpointWalk) next() (endpoint netip.AddrPort, again bool) {
	if !w.tried {
		w.tried = true
		endpoint, _ = w.current()
		return endpoint, false
	}
	w.at = (w.at + 1) % len(w.candidates)
	return w.candidates[w.at], true
}

// LocalCandidates returns the endpoints under which this node may be reachable
// from its own links, best first: IPv4 before IPv6, since a LAN that hands out
// both routes both, and addresses in the order of the interfaces. Interfaces
// that carry an overlay (the mesh's own, a CNI's) are left out, else the tunnel
// would be offered as a way to reach itself.
func LocalCandidates(port int) ([]netip.AddrPort, error) {
	prefixes, err := LocalPrefixes()
	if err != nil {
		return nil, err
	}
	var v4, v6 []netip.AddrPort
	for _, p := range prefixes {
		if p.Addr().Is4() {
			v4 = append(v4, netip.AddrPortFrom(p.Addr(), uint16(port)))
		} else {
			v6 = append(v6, netip.AddrPortFrom(p.Addr(), uint16(port)))
		}
	}
	return append(v4, v6...), nil
}

// LocalPrefixes returns this node's addresses with the length of their networks,
// without loopback, link-local and overlay addresses.
func LocalPrefixes() ([]netip.Prefix, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || overlay(i.Name) {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			continue // the interface vanished between the two calls
		}
		for _, a := range addresses {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || !p.Addr().IsGlobalUnicast() {
				continue
			}
			all = append(all, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()))
		}
	}
	return all, nil
}

// overlay tells interfaces that run over others: this mesh, K3s's flannel and
// CNI bridges, and their per-pod ends.
func overlay(name string) bool {
	for _, prefix := range []string{"muster", "flannel", "cni", "veth-", "cali", "kube-", "docker", "wg", "lxc"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// usable leaves out what no packet can be sent to. Candidates are claims of other
// nodes: one that WireGuard refuses would keep the whole configuration from being
// applied, and a zone is free text that would end up in the device's line-based
// configuration protocol (and names an interface of the claiming node anyway).
func usable(candidates []netip.AddrPort) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(candidates), func(c netip.AddrPort) bool {
		a := c.Addr()
		return !c.IsValid() || c.Port() == 0 || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	})
}

// Prefer orders a peer's candidates for this node: first those on a network
// that this node is on too, otherwise in the peer's own order.
func Prefer(candidates []netip.AddrPort, local []netip.Prefix) []netip.AddrPort {
	shared := func(c netip.AddrPort) bool {
		return slices.ContainsFunc(local, func(p netip.Prefix) bool { return p.Masked().Contains(c.Addr()) })
	}
	ordered := make([]netip.AddrPort, 0, len(candidates))
	for _, want := range []bool{true, false} {
		for _, c := range candidates {
			if shared(c) == want {
				ordered = append(ordered, c)
			}
		}
	}
	return ordered
}
