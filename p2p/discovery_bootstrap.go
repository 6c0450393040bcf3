package p2p

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/multiformats/go-multiaddr"
)

// ParseBootstrap reads the address of a node to dial first: a multiaddr with or
// without a trailing /p2p/ID, or host:port, which stands for QUIC on UDP and for
// TCP on that one port. Without an ID whoever answers there is asked who it is:
// identical images cannot know the identities that will be made on first boot,
// and admission decides about it in any case.
func ParseBootstrap(s string) (multiaddr.Multiaddr, error) {
	s = strings.TrimSpace(s)
	if !strings.HasPrefix(s, "/") {
		return parseHostPort(s)
	}
	addr, err := multiaddr.NewMultiaddr(s)
	if err != nil {
		return nil, errors.New("is no multiaddr")
	}
	return addr, checkBootstrap(addr)
}

func parseHostPort(s string) (multiaddr.Multiaddr, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return nil, errors.New("is neither a multiaddr nor host:port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, errors.New("has no port from 1 to 65535")
	}
	kind := "dns"
	if ip := net.ParseIP(host); ip != nil {
		kind = "ip6"
		if ip.To4() != nil {
			kind = "ip4"
		}
	}
	// UDP without QUIC behind it is our sign for "both transports".
	addr, err := multiaddr.NewMultiaddr("/" + kind + "/" + host + "/udp/" + port)
	if err != nil {
		return nil, errors.New("has no host that can be dialled")
	}
	return addr, checkBootstrap(addr)
}

// checkBootstrap refuses what no transport of ours can dial.
func checkBootstrap(addr multiaddr.Multiaddr) error {
	rest := make([]string, 0, len(addr))
	for _, c := range addr {
		rest = append(rest, c.Protocol().Name)
	}
	if n := len(rest); n > 0 && rest[n-1] == "p2p" {
		rest = rest[:n-1]
	}
	if len(rest) < 2 {
		return errors.New("names no port")
	}
	switch rest[0] {
	case "ip4", "ip6":
	case "dns", "dns4", "dns6":
		if !isHostname(addr[0].Value()) {
			return errors.New("has no host that can be dialled")
		}
	default:
		return fmt.Errorf("begins with /%s, not with an IP address or a name", rest[0])
	}
	switch strings.Join(rest[1:], "/") {
	case "udp", "tcp", "udp/quic-v1":
		return nil
	}
	return errors.New("is neither QUIC (/udp/PORT/quic-v1) nor TCP (/tcp/PORT)")
}

func isHostname(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}
