package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/multiformats/go-multiaddr"
)

// DiscoveryConfig says where to look for peers. Each source works without the
// others.
type DiscoveryConfig struct {
	Host    *Host
	Network Network

	MDNS      bool     // announce and listen on every LAN
	Bootstrap []string // beside those in the token; see ParseBootstrap
	BookPath  string   // address book on disk; "" keeps it in memory

	// DHT is where to look across the Internet when peers are lacking; nil leaves
	// it alone.
	DHT *DHTConfig

	// Members are dialled for as long as they are members, wherever they were
	// last. It is asked often, from one goroutine, and must not block. Nil: none.
	Members func() []peer.ID

	Log *slog.Logger // nil discards
}

// Discovery finds the other nodes of the network and keeps the host connected to
// them.
type Discovery struct {
	host    *Host
	members func() []peer.ID
	log     *slog.Logger
	book    *addressBook
	dialer  *dialer
	mdns    *mdns
	ident   event.Subscription
	places  *reservations
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	exchanges      int // since exchangesSince; of keepBook alone
	exchangesSince time.Time
}

// bookSaveDelay gathers changes, so that a site that starts costs one write.
const bookSaveDelay = 2 * time.Second

// StartDiscovery fails on an address of a bootstrap peer or DHT server that cannot be read. mDNS that
// cannot start is logged: the other sources may do.
func StartDiscovery(cfg DiscoveryConfig) (*Discovery, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Members == nil {
		cfg.Members = func() []peer.ID { return nil }
	}
	var bootstrap []multiaddr.Multiaddr
	for _, s := range slices.Concat(cfg.Network.Bootstrap(), cfg.Bootstrap) {
		addr, err := ParseBootstrap(s)
		if err != nil {
			return nil, fmt.Errorf("bootstrap address %q %w", s, err)
		}
		bootstrap = append(bootstrap, addr)
	}
	var servers []peer.AddrInfo
	if cfg.DHT != nil {
		var err error
		if servers, err = cfg.DHT.servers(); err != nil {
			return nil, err
		}
	}
	ident, err := cfg.Host.inner.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted), eventbus.BufSize(maxMembers), eventbus.Name("muster discovery"))
	if err != nil {
		return nil, fmt.Errorf("start discovery: %w", err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	d := &Discovery{
		host: cfg.Host, places: newReservations(cfg.Host), members: cfg.Members, log: cfg.Log, ident: ident, cancel: cancel,
		book:   openAddressBook(cfg.BookPath, cfg.Log),
		dialer: newDialer(cfg.Host, cfg.Log),
	}
	for _, addr := range bootstrap {
		d.dialer.bootstrap(addr)
	}
	for _, info := range d.book.all() {
		d.dialer.learn(info)
	}
	d.dialer.wanted = d.wanted
	cfg.Host.Handle(exchangeProtocol, AccessAdmitted, d.serveExchange)
	if cfg.MDNS {
		socket, err := openMulticast(cfg.Host)
		if err != nil {
			cfg.Log.Warn("mDNS is off", "error", err)
		} else {
			d.mdns = newMDNS(socket, cfg.Host.Networks(), cfg.Host.ID(), d.sighted, cfg.Host.noteConflict, cfg.Log)
			d.wg.Go(func() { d.mdns.run(ctx) })
		}
	}
	if cfg.DHT != nil {
		meeting := newRendezvous(*cfg.DHT, servers, d)
		d.wg.Go(func() { meeting.run(ctx) })
	}
	d.wg.Go(func() { d.dialer.run(ctx) })
	d.wg.Go(func() { d.keepBook(ctx) })
	return d, nil
}

// Learn tells discovery where a peer may be, from whatever source.
func (d *Discovery) Learn(info peer.AddrInfo) { d.dialer.learn(info) }

// SetNetworks changes the names under which nodes find each other, after a
// rotation of the token.
func (d *Discovery) SetNetworks(n Networks) {
	if d.mdns != nil {
		d.mdns.setNetworks(n)
	}
}

// sighted dials who is on the LAN. One that knows only a token which was replaced
// is dialled if it is a member that was away; if not, it will dial, and then it
// is told.
func (d *Discovery) sighted(info peer.AddrInfo, former bool) {
	if former && d.host.standing(info.ID) != StandingMember {
		return
	}
	d.dialer.sighted(info)
}

// Close ends discovery and saves the book. Connections stay.
func (d *Discovery) Close() error {
	d.cancel()
	d.host.Unhandle(exchangeProtocol)
	err := d.ident.Close()
	d.wg.Wait()
	d.places.wg.Wait()
	return errors.Join(err, d.book.save())
}

// missing tells whether a member is not connected.
func (d *Discovery) missing() bool {
	return slices.ContainsFunc(d.members(), func(p peer.ID) bool { return p != d.host.ID() && !d.host.connected(p) })
}

// wanted lists whom the dialer must never give up, with where they were last.
func (d *Discovery) wanted() []peer.AddrInfo {
	book := map[peer.ID][]multiaddr.Multiaddr{}
	for _, info := range d.book.all() {
		book[info.ID] = info.Addrs
	}
	var out []peer.AddrInfo
	for _, p := range d.members() {
		out = append(out, peer.AddrInfo{ID: p, Addrs: book[p]})
		delete(book, p)
	}
	for p, addrs := range book {
		out = append(out, peer.AddrInfo{ID: p, Addrs: addrs})
	}
	return out
}

// keepBook notes where peers are each time that one was identified, asks it for
// others, and forgets the revoked.
func (d *Discovery) keepBook(ctx context.Context) {
	save := time.NewTimer(bookSaveDelay)
	defer save.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-d.ident.Out():
			if !ok {
				return
			}
			identified := e.(event.EvtPeerIdentificationCompleted)
			d.book.put(peer.AddrInfo{ID: identified.Peer, Addrs: d.host.addrsOf(identified.Peer)})
			d.exchange(ctx, identified.Peer)
			d.places.identified(ctx, identified)
			save.Reset(bookSaveDelay)
		case <-save.C:
			for _, info := range d.book.all() {
				if d.host.standing(info.ID) == StandingRevoked {
					d.book.drop(info.ID)
				}
			}
			if err := d.book.save(); err != nil {
				d.log.Warn("address book", "error", err)
			}
		}
	}
}
