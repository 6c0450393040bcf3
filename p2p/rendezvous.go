package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	libp2phost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// rendezvousProtocol is spoken by throw-away hosts: who opens a stream is told
// the sealed record, and nothing is read from it.
const rendezvousProtocol protocol.ID = "/muster/rendezvous/1"

const (
	// A LAN, a bootstrap address or the address book find a site in seconds, and
	// the public DHT need not know of it.
	rendezvousPatience = 20 * time.Second

	// rendezvousPublish is how often a node says where it is, beside each time that
	// the name changes: DHT servers forget after a day or two.
	rendezvousPublish = 12 * time.Hour

	// The pause between two looks doubles. Each look costs some tens of kilobytes.
	rendezvousFirst   = 30 * time.Second
	rendezvousAlone   = 15 * time.Minute // at most, while nobody is connected
	rendezvousMissing = 2 * time.Hour    // at most, while only some are missing: they are dialled where they were too

	rendezvousTimeout = 90 * time.Second // of one look
	rendezvousAsk     = 10 * time.Second // of one host
	maxRendezvous     = 32               // hosts that one look asks
)

// DHTConfig says how to use a Kademlia DHT.
type DHTConfig struct {
	// Bootstrap are DHT servers to begin with, multiaddrs with /p2p/ID; none means
	// the public ones of libp2p.
	Bootstrap []string
	// Listen are the addresses of the throw-away host, all if empty.
	Listen []netip.Addr

	patience time.Duration    // rendezvousPatience if 0
	clock    func() time.Time // time.Now if nil
}

// ParseDHTServer reads the address of a DHT server.
func ParseDHTServer(s string) (peer.AddrInfo, error) {
	info, err := peer.AddrInfoFromString(s)
	if err != nil || len(info.Addrs) == 0 {
		return peer.AddrInfo{}, fmt.Errorf("DHT server %q: want a multiaddr with a peer ID, as /dnsaddr/dht.example.org/p2p/ID", s)
	}
	return *info, nil
}

func (c DHTConfig) servers() ([]peer.AddrInfo, error) {
	if len(c.Bootstrap) == 0 {
		return dht.GetDefaultBootstrapPeerAddrInfos(), nil
	}
	var all []peer.AddrInfo
	for _, s := range c.Bootstrap {
		info, err := ParseDHTServer(s)
		if err != nil {
			return nil, err
		}
		all = append(all, info)
	}
	return all, nil
}

// rendezvous talks to a DHT, by a host that has its own key and knows nothing:
// the node's own host only ever meets members. Between looks it has no
// connection to anybody; all that is left is a port that answers with a record.
type rendezvous struct {
	config  DHTConfig
	servers []peer.AddrInfo
	host    *Host
	sighted func(info peer.AddrInfo, former bool)
	missing func() bool
	log     *slog.Logger

	throwaway   libp2phost.Host // nil until a DHT was reached
	published   cid.Cid
	publishedAt time.Time
}

func newRendezvous(cfg DHTConfig, servers []peer.AddrInfo, d *Discovery) *rendezvous {
	if cfg.patience == 0 {
		cfg.patience = rendezvousPatience
	}
	if cfg.clock == nil {
		cfg.clock = time.Now
	}
	return &rendezvous{config: cfg, servers: servers, host: d.host, sighted: d.sighted, missing: d.missing, log: d.log}
}

// run looks until ctx ends.
func (r *rendezvous) run(ctx context.Context) {
	defer r.drop()
	first := min(rendezvousFirst, 2*r.config.patience)
	gap := first
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(dialJitter(2 * r.config.patience)):
		}
		alone := len(r.host.Peers()) == 0
		search := alone || r.missing()
		limit := rendezvousMissing
		if alone {
			limit = rendezvousAlone
		}
		gap = min(gap, limit)
		if !search && !r.due() || time.Since(looked) < dialJitter(gap) {
			continue
		}
		err := r.look(ctx, search)
		if err != nil && ctx.Err() == nil {
			r.log.Debug("DHT", "error", err)
		}
		looked = time.Now()
		if gap = min(2*gap, limit); err == nil && !search {
			gap = first
		}
	}
}

// due tells whether the DHT is to be told where this node is.
func (r *rendezvous) due() bool {
	return time.Since(r.publishedAt) >= rendezvousPublish || r.published != rendezvousName(r.host.Networks().Present, r.config.clock(), 0)
}

// look publishes where this node is if that is due, and then, if it lacks peers,
// asks where others are.
func (r *rendezvous) look(ctx context.Context, search bool) error {
	ctx, cancel := context.WithTimeout(ctx, rendezvousTimeout)
	defer cancel()
	if err := r.open(); err != nil {
		return err
	}
	h := r.throwaway
	kad, err := dht.New(ctx, h, dht.Mode(dht.ModeClient), dht.DisableAutoRefresh(), dht.BootstrapPeers(r.servers...))
	if err != nil {
		return fmt.Errorf("start DHT client: %w", err)
	}
	defer func() {
		_ = kad.Close() // it is thrown away
		for _, p := range h.Network().Peers() {
			_ = h.Network().ClosePeer(p)
		}
	}()
	if err := r.reach(ctx, kad); err != nil {
		if r.publishedAt.IsZero() {
			r.drop() // no Internet, no need for a host
		}
		return err
	}
	// Of two that look at once, one finds the other.
	networks := r.host.Networks()
	if r.due() {
		err = r.publish(ctx, kad, networks.Present)
	}
	if search {
		asked := map[peer.ID]bool{h.ID(): true}
		for _, window := range []int{0, -1, 1} {
			r.search(ctx, kad, networks.Present, window, asked)
		}
		// A member that was away when the token was replaced is under its old name.
		for _, former := range networks.Former {
			r.search(ctx, kad, former, 0, asked)
		}
	}
	return err
}

func (r *rendezvous) publish(ctx context.Context, kad *dht.IpfsDHT, n Network) error {
	name := rendezvousName(n, r.config.clock(), 0)
	if err := kad.Provide(ctx, name, true); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	r.published, r.publishedAt = name, time.Now()
	return nil
}

// reach returns when the DHT has somebody to ask.
func (r *rendezvous) reach(ctx context.Context, kad *dht.IpfsDHT) error {
	var errs []error
	for _, s := range r.servers {
		dialling, cancel := context.WithTimeout(ctx, dialTimeout)
		errs = append(errs, r.throwaway.Connect(dialling, s))
		cancel()
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	patience := time.NewTimer(dialTimeout)
	defer patience.Stop()
	for kad.RoutingTable().Size() == 0 {
		if len(r.throwaway.Network().Peers()) == 0 {
			return fmt.Errorf("no DHT server answers: %w", errors.Join(errs...))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-patience.C:
			return errors.New("no DHT server lets us ask")
		case <-tick.C:
		}
	}
	return nil
}

// search asks everybody who says to be of a network in a window. All at once: the
// DHT remembers the hosts of a machine's earlier starts for a day, and each of them
// would cost the whole time of an answer.
func (r *rendezvous) search(ctx context.Context, kad *dht.IpfsDHT, n Network, window int, asked map[peer.ID]bool) {
	name := rendezvousName(n, r.config.clock(), window)
	var asking sync.WaitGroup
	defer asking.Wait()
	for found := range kad.FindProvidersAsync(ctx, name, maxRendezvous) {
		if asked[found.ID] || len(asked) > maxRendezvous {
			continue
		}
		asked[found.ID] = true
		asking.Go(func() {
			info, err := r.ask(ctx, n, found)
			if err != nil {
				r.log.Debug("ask where a node is", "peer", found.ID.String(), "error", err)
				return
			}
			if info.ID != r.host.ID() {
				r.sighted(info, !n.Same(r.host.Networks().Present))
			}
		})
	}
}

// ask has another's throw-away host tell where its node is.
func (r *rendezvous) ask(ctx context.Context, n Network, from peer.AddrInfo) (peer.AddrInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, rendezvousAsk)
	defer cancel()
	if err := r.throwaway.Connect(ctx, from); err != nil {
		return peer.AddrInfo{}, err
	}
	s, err := r.throwaway.NewStream(ctx, from.ID, rendezvousProtocol)
	if err != nil {
		return peer.AddrInfo{}, err
	}
	defer func() { _ = s.Reset() }() // all is read, or nothing will be
	if err := s.SetDeadline(time.Now().Add(rendezvousAsk)); err != nil {
		return peer.AddrInfo{}, err
	}
	raw, err := io.ReadAll(io.LimitReader(s, maxRendezvousRecord+1))
	if err != nil {
		return peer.AddrInfo{}, err
	}
	info, err := openRendezvous(n, raw)
	if err != nil {
		return peer.AddrInfo{}, err
	}
	info.Addrs = append(info.Addrs, sameMachine(s.Conn().RemoteMultiaddr(), info.Addrs)...)
	return info, nil
}

// sameMachine are the node's ports at the address where its throw-away host was
// found: a machine whose provider gives it an address does not know that itself.
func sameMachine(at multiaddr.Multiaddr, addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	ip, err := manet.ToIP(at)
	if err != nil {
		return nil
	}
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return nil
	}
	var out []multiaddr.Multiaddr
	for _, a := range addrs {
		for _, code := range []int{multiaddr.P_TCP, multiaddr.P_UDP} {
			if port, err := a.ValueForProtocol(code); err == nil {
				var n int
				if _, err := fmt.Sscan(port, &n); err == nil {
					forms := transportAddrs(addr.Unmap(), n)
					return append(out, forms[:]...)
				}
			}
		}
	}
	return out
}

func (r *rendezvous) open() error {
	if r.throwaway != nil {
		return nil
	}
	h, err := libp2p.New(
		libp2p.NoListenAddrs,
		libp2p.UserAgent("libp2p"), // not to be told from others
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
		libp2p.Ping(false),
	)
	if err != nil {
		return fmt.Errorf("start throw-away host: %w", err)
	}
	if err := listenAll(h, r.config.Listen, 0); err != nil {
		return errors.Join(fmt.Errorf("start throw-away host: %w", err), h.Close())
	}
	h.SetStreamHandler(rendezvousProtocol, func(s network.Stream) {
		err := s.SetDeadline(time.Now().Add(rendezvousAsk))
		if err == nil {
			_, err = s.Write(sealRendezvous(r.host.Networks().Present, peer.AddrInfo{ID: r.host.ID(), Addrs: r.host.Addrs()}))
		}
		if err != nil || s.Close() != nil {
			_ = s.Reset()
		}
	})
	r.throwaway = h
	return nil
}

func (r *rendezvous) drop() {
	if r.throwaway != nil {
		if err := r.throwaway.Close(); err != nil {
			r.log.Debug("close the throw-away host", "error", err)
		}
		r.throwaway = nil
	}
}
