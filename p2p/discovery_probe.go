package p2p

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/multiformats/go-multistream"
	"github.com/quic-go/quic-go"
)

// connected reports whether a peer is.
func (h *Host) connected(p peer.ID) bool {
	return h.inner.Network().Connectedness(p) == network.Connected
}

// addrsOf returns where a connected peer says that it can be reached. Loopback is
// left out unless it is all there is.
func (h *Host) addrsOf(p peer.ID) []multiaddr.Multiaddr {
	return h.announced(h.inner.Peerstore().Addrs(p))
}

// probe resolves a bootstrap address to a peer and its addresses. Where the
// address has no ID, it asks who is there: a TLS handshake and nothing else, in
// which either end learns the other's peer ID.
func (h *Host) probe(ctx context.Context, addr multiaddr.Multiaddr) (peer.AddrInfo, error) {
	bare, id := peer.SplitAddr(addr)
	bare, err := resolveName(ctx, bare)
	if err != nil {
		return peer.AddrInfo{}, err
	}
	candidates := dialForms(bare)
	if id != "" {
		return peer.AddrInfo{ID: id, Addrs: candidates}, nil
	}

	type answer struct {
		id  peer.ID
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(candidates))
	key := h.inner.Peerstore().PrivKey(h.self)
	for _, c := range candidates {
		go func() {
			id, err := askIdentity(ctx, key, c)
			answers <- answer{id, err}
		}()
	}
	var errs []error
	var found peer.ID
	for range candidates { // all of them, so that none outlives the probe
		switch a := <-answers; {
		case a.err == nil:
			found = a.id
			cancel()
		default:
			errs = append(errs, a.err)
		}
	}
	if found == "" {
		return peer.AddrInfo{}, fmt.Errorf("who is at %s: %w", addr, errors.Join(errs...))
	}
	return peer.AddrInfo{ID: found, Addrs: candidates}, nil
}

// resolveName replaces a name by an address of it, IPv4 first.
func resolveName(ctx context.Context, addr multiaddr.Multiaddr) (multiaddr.Multiaddr, error) {
	first := addr[0]
	family := map[string]string{"dns": "ip", "dns4": "ip4", "dns6": "ip6"}[first.Protocol().Name]
	if family == "" {
		return addr, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, family, first.Value())
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", first.Value(), err)
	}
	best := ips[0].Unmap()
	for _, ip := range ips {
		if ip.Unmap().Is4() {
			best = ip.Unmap()
			break
		}
	}
	return withIP(best, addr[1:])
}

func withIP(ip netip.Addr, rest multiaddr.Multiaddr) (multiaddr.Multiaddr, error) {
	kind := "/ip4/"
	if ip.Is6() {
		kind = "/ip6/"
	}
	return multiaddr.NewMultiaddr(kind + ip.WithZone("").String() + rest.String())
}

// dialForms is the address itself, or QUIC and TCP where it says "this port".
func dialForms(addr multiaddr.Multiaddr) []multiaddr.Multiaddr {
	host, isPort := strings.CutSuffix(addr.String(), "/quic-v1")
	if isPort || !strings.Contains(host, "/udp/") {
		return []multiaddr.Multiaddr{addr}
	}
	return []multiaddr.Multiaddr{
		multiaddr.StringCast(host + "/quic-v1"),
		multiaddr.StringCast(strings.Replace(host, "/udp/", "/tcp/", 1)),
	}
}

// askIdentity learns the peer ID behind an address from its TLS certificate.
func askIdentity(ctx context.Context, key crypto.PrivKey, addr multiaddr.Multiaddr) (peer.ID, error) {
	kind, hostPort, err := manet.DialArgs(addr)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(kind, "udp") {
		return askQUIC(ctx, key, hostPort)
	}
	return askTCP(ctx, key, hostPort)
}

func askQUIC(ctx context.Context, key crypto.PrivKey, hostPort string) (peer.ID, error) {
	identity, err := libp2ptls.NewIdentity(key)
	if err != nil {
		return "", err
	}
	conf, pub := identity.ConfigForPeer("")
	conn, err := quic.DialAddr(ctx, hostPort, conf, &quic.Config{})
	if err != nil {
		return "", err
	}
	// The ID is known; how the connection ends does not matter.
	defer func() { _ = conn.CloseWithError(0, "") }()
	return peer.IDFromPublicKey(<-pub)
}

func askTCP(ctx context.Context, key crypto.PrivKey, hostPort string) (peer.ID, error) {
	tls, err := libp2ptls.New(libp2ptls.ID, key, nil)
	if err != nil {
		return "", err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", hostPort)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := multistream.SelectOneOf([]string{libp2ptls.ID}, conn); err != nil {
		return "", err
	}
	secure, err := tls.SecureOutbound(ctx, conn, "")
	if err != nil {
		return "", err
	}
	return secure.RemotePeer(), nil
}
