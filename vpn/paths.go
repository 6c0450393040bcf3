package vpn

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// PathsConfig says what the search for paths works with.
type PathsConfig struct {
	VPN *VPN
	// Carrier takes packets through the mesh; nil: there is no relay.
	Carrier Carrier
	// Changed is called when a path or what Observed returns is another, from any
	// goroutine. It must not block.
	Changed func()
	Log     *slog.Logger
}

// Paths keeps the best way to every peer of the last Apply: directly to an
// endpoint that was proved to work both ways, else through the mesh. It changes
// the device's endpoints and nothing else, so connections inside survive.
type Paths struct {
	vpn     *VPN
	carrier Carrier
	changed func()
	log     *slog.Logger
	socket  *probeSocket // nil: this machine does not let us, WireGuard finds its way alone
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	wake    chan struct{}

	mu       sync.Mutex
	closed   bool
	private  wgtypes.Key
	peers    map[wgtypes.Key]*peerPath
	byID     map[probeID]*peerPath
	sent     map[uint64]sentPing
	observed map[wgtypes.Key]netip.AddrPort // this node, as peers see it
	local    []netip.Prefix
}

// peerPath is a peer with its path.
type peerPath struct {
	peer  Peer
	keys  probeKeys
	state *pathState
	proxy *proxy // nil until it is needed
	// renewed is when the peer last asked to be made anew.
	renewed time.Time
}

type sentPing struct {
	to   netip.AddrPort
	peer wgtypes.Key
	at   time.Time
}

const (
	tickBusy    = time.Second     // while a path is looked for
	tickQuiet   = 5 * time.Second // otherwise
	pingExpires = 5 * time.Second
	// settleNetwork gathers what an interface that comes up makes the kernel say.
	settleNetwork = 300 * time.Millisecond
)

// StartPaths works until Close, which must come before the VPN's.
func StartPaths(cfg PathsConfig) (*Paths, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Paths{
		vpn: cfg.VPN, carrier: cfg.Carrier, changed: cfg.Changed, log: cfg.Log, cancel: cancel, wake: make(chan struct{}, 1),
		peers: map[wgtypes.Key]*peerPath{}, byID: map[probeID]*peerPath{}, sent: map[uint64]sentPing{},
		observed: map[wgtypes.Key]netip.AddrPort{},
	}
	links, addrs := make(chan netlink.LinkUpdate, 16), make(chan netlink.AddrUpdate, 16)
	if err := errors.Join(netlink.LinkSubscribe(links, ctx.Done()), netlink.AddrSubscribe(addrs, ctx.Done())); err != nil {
		cancel()
		return nil, fmt.Errorf("watch the machine's links: %w", err)
	}
	p.wg.Go(func() { p.watchNetwork(ctx, links, addrs) })
	p.wg.Go(func() { p.run(ctx) })
	return p, nil
}

// Of returns the path to a peer, by its mesh address.
func (p *Paths) Of(address netip.Addr) Path {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, peer := range p.peers {
		if peer.peer.Address == address {
			return peer.state.path
		}
	}
	return PathNone
}

// Observed returns the endpoints under which peers see this node, where these are
// not its own addresses: what a router in between has mapped. A router that maps
// differently for everybody gives nothing that anybody else could use.
func (p *Paths) Observed() []netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	ports := map[netip.Addr]uint16{}
	for _, at := range p.observed {
		if port, seen := ports[at.Addr()]; seen && port != at.Port() {
			ports[at.Addr()] = 0
		} else if !seen {
			ports[at.Addr()] = at.Port()
		}
	}
	var all []netip.AddrPort
	for addr, port := range ports {
		if port != 0 {
			all = append(all, netip.AddrPortFrom(addr, port))
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}

// Serve takes a stream that a peer opened by its Carrier, until it ends.
func (p *Paths) Serve(id string, r io.Reader) error {
	var to *proxy
	return readFrames(bufio.NewReaderSize(r, 64<<10), func(b []byte) {
		if to == nil {
			to = p.proxyFor(id)
		}
		if to != nil {
			to.inject(b)
		}
	}, func() { p.round(id) }, func() { p.anew(id) })
}

// Close ends the search. The device keeps the endpoints that it has.
func (p *Paths) Close() error {
	p.cancel()
	p.mu.Lock()
	p.closed = true
	socket := p.socket
	p.socket = nil
	var proxies []*proxy
	for _, peer := range p.peers {
		if peer.proxy != nil {
			proxies = append(proxies, peer.proxy)
		}
	}
	p.mu.Unlock()
	var all error
	if socket != nil {
		all = socket.close()
	}
	for _, x := range proxies {
		all = errors.Join(all, x.close())
	}
	p.wg.Wait()
	return all
}

// NetworkChanged looks at every path anew.
func (p *Paths) NetworkChanged() {
	now := time.Now()
	p.mu.Lock()
	clear(p.observed)
	for _, peer := range p.peers {
		peer.state.shake(now)
	}
	p.mu.Unlock()
	p.poke()
	p.changed()
}

// Applied takes up what the VPN was told last. Without it a new peer would be looked
// for seconds later.
func (p *Paths) Applied() { p.poke() }

func (p *Paths) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Paths) watchNetwork(ctx context.Context, links <-chan netlink.LinkUpdate, addrs <-chan netlink.AddrUpdate) {
	before, _ := LocalPrefixes()
	for {
		select {
		case <-ctx.Done():
			return
		case u, ok := <-links:
			if !ok {
				return
			}
			if overlay(u.Attrs().Name) {
				continue
			}
		case _, ok := <-addrs:
			if !ok {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settleNetwork):
		}
		for len(links) > 0 {
			<-links
		}
		for len(addrs) > 0 {
			<-addrs
		}
		// Interfaces say many things; addresses are what paths hang on.
		now, err := LocalPrefixes()
		if err != nil || slices.Equal(before, now) {
			continue
		}
		before = now
		p.log.Info("the machine's addresses changed", "addresses", fmt.Sprint(now))
		p.NetworkChanged()
	}
}

func (p *Paths) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-p.wake:
		}
		timer.Reset(p.tick(ctx, time.Now()))
	}
}

// tick looks at all peers once and returns when to do so again.
func (p *Paths) tick(ctx context.Context, now time.Time) time.Duration {
	config, views, err := p.vpn.look()
	if err != nil {
		p.log.Debug("look at the VPN device", "error", err)
		return tickQuiet // it is being made anew
	}
	local, err := LocalPrefixes()
	if err != nil {
		p.log.Debug("read own addresses", "error", err)
	}
	p.mu.Lock()
	p.local = local
	p.follow(config, now)
	for tx, ping := range p.sent {
		if now.Sub(ping.at) > pingExpires {
			delete(p.sent, tx)
		}
	}
	next := tickQuiet
	steps := map[*peerPath]pathStep{}
	for key, peer := range p.peers {
		relay := p.carrier != nil && p.carrier.Reaches(peer.peer.ID) && (peer.proxy == nil || peer.proxy.works(now))
		steps[peer] = peer.state.tick(now, views[key], relay, p.mapped(peer))
		if !peer.state.settled(now) {
			next = tickBusy
		}
	}
	p.mu.Unlock()
	for peer, step := range steps {
		p.do(ctx, peer, step)
	}
	return next
}

// mapped tells whether a router stands between here and the peer's endpoint.
func (p *Paths) mapped(peer *peerPath) bool {
	if at, seen := p.observed[peer.peer.PublicKey]; seen {
		if !slices.ContainsFunc(p.local, func(l netip.Prefix) bool { return l.Addr() == at.Addr() }) {
			return true
		}
	}
	// An endpoint that the peer does not have itself is one that its router made.
	return peer.state.path == PathDirect && len(peer.peer.Own) > 0 && !slices.Contains(peer.peer.Own, peer.state.endpoint)
}

// follow makes the peers those of the device's configuration.
func (p *Paths) follow(config Config, now time.Time) {
	if p.socket == nil && config.Port != 0 && !p.closed {
		socket, err := openProbeSocket(config.Port, p.hear)
		if err != nil {
			p.log.Warn("paths are WireGuard's own to find", "error", err)
		}
		p.socket = socket
	}
	wanted := map[wgtypes.Key]bool{}
	for _, c := range config.Peers {
		wanted[c.PublicKey] = true
		peer := p.peers[c.PublicKey]
		if peer == nil || p.private != config.PrivateKey || peer.peer.ID != c.ID {
			keys, err := newProbeKeys(config.PrivateKey, c.PublicKey)
			if err != nil {
				continue // WireGuard will not shake hands with such a key either
			}
			if peer != nil {
				p.forget(peer)
			}
			peer = &peerPath{keys: keys, state: newPathState(now)}
			p.peers[c.PublicKey], p.byID[keys.theirs] = peer, peer
		}
		peer.peer = c
		peer.state.offer(c.Candidates, now)
	}
	p.private = config.PrivateKey
	for key, peer := range p.peers {
		if !wanted[key] {
			p.forget(peer)
		}
	}
}

func (p *Paths) forget(peer *peerPath) {
	delete(p.peers, peer.peer.PublicKey)
	delete(p.byID, peer.keys.theirs)
	delete(p.observed, peer.peer.PublicKey)
	if x := peer.proxy; x != nil {
		p.wg.Go(func() { _ = x.close() }) // its goroutines may wait for p.mu
	}
}

// do carries out what a state asks for.
func (p *Paths) do(ctx context.Context, peer *peerPath, step pathStep) {
	for _, to := range step.ping {
		p.ping(peer, to)
	}
	p.mu.Lock()
	who := peer.peer
	p.mu.Unlock()
	if step.tell {
		if x := p.proxyFor(who.ID); x != nil {
			x.enqueue(frame(frameRound, nil))
		}
	}
	if step.anew {
		if x := p.proxyFor(who.ID); x != nil {
			p.log.Debug("a peer does not answer handshakes: asking it to forget those before", "peer", who.ID)
			x.enqueue(frame(frameAnew, nil))
		}
	}
	endpoint := step.endpoint
	if step.relay {
		if x := p.proxyFor(who.ID); x != nil {
			endpoint = x.endpoint()
		}
	}
	if endpoint.IsValid() {
		grace, err := p.vpn.direct(ctx, who, endpoint)
		if err != nil {
			p.log.Debug("change a peer's endpoint", "peer", who.ID, "error", err)
		}
		if grace > 0 {
			time.AfterFunc(grace, func() { p.insist(who, endpoint) })
		}
	}
	if step.changed {
		p.mu.Lock()
		path, at := peer.state.path, peer.state.endpoint
		p.mu.Unlock()
		p.vpn.hold(who.PublicKey, path != PathNone)
		p.log.Info("path to a peer", "peer", who.ID, "route", string(path), "endpoint", at.String())
		p.changed()
	}
}

func (p *Paths) insist(who Peer, to netip.AddrPort) {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return
	}
	if err := p.vpn.insist(context.Background(), who, to); err != nil {
		p.log.Debug("insist on a handshake", "peer", who.ID, "error", err)
	}
}

func (p *Paths) proxyFor(id string) *proxy {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.carrier == nil {
		return nil
	}
	peer := p.find(id)
	if peer == nil {
		return nil // not a peer, or not any more
	}
	if peer.proxy == nil {
		x, err := newProxy(id, p.vpn.port(), p.carrier, p.log)
		if err != nil {
			p.log.Warn("no relay", "error", err)
			return nil
		}
		peer.proxy = x
	}
	return peer.proxy
}

// round begins one because the peer does: what both send at once opens the
// routers of both.
func (p *Paths) round(id string) {
	now := time.Now()
	p.mu.Lock()
	var targets []netip.AddrPort
	var found *peerPath
	if peer := p.find(id); peer != nil && peer.state.path != PathDirect && now.Sub(peer.state.backed) >= pingPause/2 {
		peer.state.backed = now
		found, targets = peer, peer.state.targets()
	}
	p.mu.Unlock()
	for _, to := range targets {
		p.ping(found, to)
	}
}

// find returns a peer by its ID, or nil. The caller holds p.mu.
func (p *Paths) find(id string) *peerPath {
	for _, peer := range p.peers {
		if peer.peer.ID == id {
			return peer
		}
	}
	return nil
}

// anew makes a peer anew that has no session and whose handshakes are not taken.
func (p *Paths) anew(id string) {
	now := time.Now()
	p.mu.Lock()
	var who Peer
	if peer := p.find(id); peer != nil && now.Sub(peer.renewed) >= anewPause/2 {
		peer.renewed, who = now, peer.peer
	}
	p.mu.Unlock()
	if who.ID == "" {
		return
	}
	if err := p.vpn.renew(context.Background(), who); err != nil {
		p.log.Debug("make a peer anew", "peer", id, "error", err)
	}
}

func (p *Paths) ping(peer *peerPath, to netip.AddrPort) {
	var tx [8]byte
	rand.Read(tx[:])
	b := probe{kind: ping, tx: binary.BigEndian.Uint64(tx[:])}
	p.mu.Lock()
	socket := p.socket
	p.sent[b.tx] = sentPing{to: to, peer: peer.peer.PublicKey, at: time.Now()}
	p.mu.Unlock()
	if socket != nil {
		socket.send(to, peer.keys.encode(b))
	}
}

// hear takes a datagram that may be a probe, from anybody.
func (p *Paths) hear(from netip.AddrPort, raw []byte) {
	said, err := decodeProbe(raw)
	if err != nil {
		return
	}
	p.mu.Lock()
	peer := p.byID[said.id]
	if peer == nil || p.closed || !peer.keys.verify(raw) {
		p.mu.Unlock()
		return
	}
	socket, now := p.socket, time.Now()
	var step pathStep
	news := false
	switch said.kind {
	case ping:
		step = peer.state.heard(from, now)
	case pong:
		sent, ours := p.sent[said.tx]
		if !ours || sent.peer != peer.peer.PublicKey || sent.to != from {
			p.mu.Unlock()
			return
		}
		delete(p.sent, said.tx)
		step = peer.state.answered(from, now)
		news = p.observe(peer, said.observed)
	}
	p.mu.Unlock()
	if said.kind == ping && socket != nil {
		socket.send(from, peer.keys.encode(probe{kind: pong, tx: said.tx, observed: from}))
	}
	p.do(context.Background(), peer, step)
	if news {
		p.changed()
	}
}

// observe notes where a peer sees this node, unless that is one of its addresses.
func (p *Paths) observe(peer *peerPath, at netip.AddrPort) (news bool) {
	key := peer.peer.PublicKey
	was, had := p.observed[key]
	p.observed[key] = at
	own := slices.ContainsFunc(p.local, func(l netip.Prefix) bool { return l.Addr() == at.Addr() })
	if own || !at.IsValid() || at.Port() == 0 || at.Addr().IsUnspecified() {
		delete(p.observed, key)
		return had
	}
	return !had || was != at
}
