package p2p

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/multiformats/go-multistream"
	"github.com/quic-go/quic-go"
)

// seenPatience is how long a probe may take to be seen where it came to, on a busy
// machine.
const seenPatience = 5 * time.Second

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
		at  multiaddr.Multiaddr
		err error
	}
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(candidates))
	key, mask, err := h.putOnMask()
	if err != nil {
		return peer.AddrInfo{}, fmt.Errorf("who is at %s: %w", addr, err)
	}
	defer h.takeOffMask(mask)
	for _, c := range candidates {
		go func() {
			id, err := askIdentity(asking, key, c, h.self)
			answers <- answer{id, c, err}
		}()
	}
	var errs []error
	var found answer
	for range candidates { // all of them, so that none outlives the probe
		switch a := <-answers; {
		case a.err == nil && a.id == h.self:
			if found.id == "" || overQUIC(a.at) {
				found = a
			}
		case a.err == nil:
			found = a
			cancel()
		default:
			errs = append(errs, a.err)
		}
	}
	if found.id == "" {
		return peer.AddrInfo{}, fmt.Errorf("who is at %s: %w", addr, errors.Join(errs...))
	}
	if found.id == h.self && overQUIC(found.at) && !h.sawMask(mask) {
		h.noteTwin(ctx, found.at)
	}
	return peer.AddrInfo{ID: found.id, Addrs: candidates}, nil
}

// putOnMask makes a key for one probe. Whoever is asked learns nothing of this
// node by it; and this node, asked by itself round some router, knows by it that
// it did not meet another holder of its key.
func (h *Host) putOnMask() (crypto.PrivKey, peer.ID, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	mask, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, "", err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.masks[mask] = false
	return key, mask, nil
}

func (h *Host) takeOffMask(mask peer.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.masks, mask)
}

// unmask tells whether somebody who has come is this node with a mask on.
func (h *Host) unmask(p peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ours := h.masks[p]
	if ours {
		h.masks[p] = true
	}
	return ours
}

// sawMask tells whether this node was asked by itself.
func (h *Host) sawMask(mask peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.masks[mask]
}

// noteTwin reports another node with this node's key, and lets that one know too.
func (h *Host) noteTwin(ctx context.Context, at multiaddr.Multiaddr) {
	if ip, err := manet.ToIP(at); err == nil {
		from, _ := netip.AddrFromSlice(ip)
		h.noteConflict(from.Unmap())
	}
	_, _ = askIdentity(ctx, h.inner.Peerstore().PrivKey(h.self), at, h.self) // what it answers is known
}

// overQUIC tells where this node can be told from another with its key: a TCP
// connection that asks ends before admission sees it.
func overQUIC(addr multiaddr.Multiaddr) bool {
	_, err := addr.ValueForProtocol(multiaddr.P_QUIC_V1)
	return err == nil
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

// askIdentity learns the peer ID behind an address from its TLS certificate. If that
// is self, it stays until it is shown the door, so that it was seen there.
func askIdentity(ctx context.Context, key crypto.PrivKey, addr multiaddr.Multiaddr, self peer.ID) (peer.ID, error) {
	kind, hostPort, err := manet.DialArgs(addr)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(kind, "udp") {
		return askQUIC(ctx, key, hostPort, self)
	}
	return askTCP(ctx, key, hostPort)
}

func askQUIC(ctx context.Context, key crypto.PrivKey, hostPort string, self peer.ID) (peer.ID, error) {
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
	id, err := peer.IDFromPublicKey(<-pub)
	if err == nil && id == self {
		select {
		case <-conn.Context().Done():
		case <-ctx.Done():
		case <-time.After(seenPatience):
		}
	}
	return id, err
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
