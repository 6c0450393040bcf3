package p2p

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

const (
	// mdnsJitter spreads what many nodes send on one occasion (RFC 6762 §5.2, §6).
	mdnsJitter = 100 * time.Millisecond
	// mdnsBusy is the least time between two announcements (RFC 6762 §6).
	mdnsBusy = time.Second

	// After a start or a change of addresses a node announces itself and asks at
	// once and after 1, 2, 4 … seconds, so that nodes which start at the same
	// instant, or a switch that forwards late, cost a second and not a minute.
	mdnsFirst = time.Second
	// mdnsAsks is how often a node asks though somebody was heard. Those that
	// it missed will be heard with their next announcement.
	mdnsAsks = 3
	// After that, rarely, and more rarely the more nodes there are: a LAN carries
	// one announcement in mdnsShare seconds, some 30 bytes/s.
	mdnsShare = 6 * time.Second
	mdnsSlow  = time.Minute
	mdnsRare  = 10 * time.Minute

	// mdnsLook is how often the machine's addresses are looked at.
	mdnsLook = 10 * time.Second

	// mdnsForget is how long a node counts as being on the LAN.
	mdnsForget = 2 * mdnsRare
)

// multicast is the LANs that a machine is on.
type multicast interface {
	// Refresh joins what is new, and reports whether addresses changed.
	Refresh() (changed bool)
	// Ports are those that the host listens on, by address: one announcement each.
	Ports() map[netip.Addr]uint16
	// Send sends one packet from one of the machine's addresses.
	Send(packet []byte, from netip.Addr) error
	// Receive blocks until a packet comes or the socket is closed.
	Receive(packet []byte) (n int, from netip.Addr, err error)
	Close() error
}

// mdns announces this node on its LANs and hears others.
type mdns struct {
	socket multicast
	self   peer.ID
	// sighted is told who is there, and whether it knows only a token that was
	// replaced.
	sighted func(info peer.AddrInfo, former bool)
	// conflict is told where somebody else announces our ID.
	conflict func(from netip.Addr)
	log      *slog.Logger

	mu     sync.Mutex
	codecs []*mdnsCodec          // of the present token, then of those that it replaced
	heard  map[peer.ID]time.Time // last
	former bool                  // somebody asked by the name of a former token
	asked  chan struct{}         // somebody asks
	renew  chan struct{}         // the token was replaced
}

func newMDNS(socket multicast, n Networks, self peer.ID, sighted func(peer.AddrInfo, bool), conflict func(netip.Addr), log *slog.Logger) *mdns {
	return &mdns{
		socket: socket, codecs: mdnsCodecs(n), self: self, sighted: sighted, conflict: conflict, log: log,
		heard: map[peer.ID]time.Time{}, asked: make(chan struct{}, 1), renew: make(chan struct{}, 1),
	}
}

func mdnsCodecs(n Networks) []*mdnsCodec {
	codecs := []*mdnsCodec{newMDNSCodec(n.Present)}
	for _, former := range n.Former[:min(len(n.Former), MaxFormerNetworks)] {
		codecs = append(codecs, newMDNSCodec(former))
	}
	return codecs
}

// setNetworks changes the names under which this node announces itself, asks and
// answers. Those of former tokens are answered and not announced: whoever was
// away asks when it starts.
func (m *mdns) setNetworks(n Networks) {
	codecs := mdnsCodecs(n)
	m.mu.Lock()
	m.codecs = codecs
	m.mu.Unlock()
	select {
	case m.renew <- struct{}{}:
	default: // the announcement is due already
	}
}

// run announces and listens until ctx ends, and closes the socket.
func (m *mdns) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { m.listen(ctx) })
	m.speak(ctx)
	if err := m.socket.Close(); err != nil {
		m.log.Debug("mDNS", "error", err)
	}
	wg.Wait()
}

func (m *mdns) speak(ctx context.Context) {
	m.socket.Refresh()
	round := 0
	next := time.NewTimer(rand.N(mdnsJitter))
	look := time.NewTicker(mdnsLook)
	answer := time.NewTimer(time.Hour)
	answer.Stop()
	defer next.Stop()
	defer look.Stop()
	defer answer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			if m.socket.Refresh() {
				round = 0
				next.Reset(rand.N(mdnsJitter))
			}
		case <-m.renew:
			round = 0
			next.Reset(rand.N(mdnsJitter))
		case <-next.C:
			neighbours := m.neighbours(time.Now())
			interval := mdnsInterval(round, neighbours)
			m.say(round < mdnsAsks || neighbours == 0)
			last = time.Now()
			round++
			next.Reset(interval - interval/8 + rand.N(interval/4))
		case <-m.asked:
			answer.Reset(max(0, mdnsBusy-time.Since(last)) + rand.N(mdnsJitter))
		case <-answer.C:
			m.say(false)
			last = time.Now()
		}
	}
}

// mdnsInterval is how long to wait after announcing for the round-th time, from
// 0, with that many others on the LAN.
func mdnsInterval(round, neighbours int) time.Duration {
	steady := min(mdnsRare, max(mdnsSlow, time.Duration(neighbours+1)*mdnsShare))
	if round >= 10 {
		return steady
	}
	return min(steady, mdnsFirst<<round)
}

// say sends an announcement from each address, and the question if asked to.
func (m *mdns) say(ask bool) {
	m.mu.Lock()
	codecs := m.codecs
	if !m.former {
		codecs = codecs[:1]
	}
	m.former = false
	m.mu.Unlock()
	for from, port := range m.socket.Ports() {
		var err error
		for _, codec := range codecs {
			packet, encoding := codec.announce(announcement{id: m.self, port: port})
			if err = encoding; err == nil {
				err = m.socket.Send(packet, from)
			}
			if err != nil {
				break
			}
		}
		if err == nil && ask {
			err = m.socket.Send(codecs[0].query, from)
		}
		if err != nil {
			// A cable that is out. The next round may do better.
			m.log.Debug("mDNS", "from", from.String(), "error", err)
		}
	}
}

func (m *mdns) listen(ctx context.Context) {
	packet := make([]byte, maxMDNSPacket+1)
	for {
		n, from, err := m.socket.Receive(packet)
		if err != nil {
			if ctx.Err() == nil {
				m.log.Warn("mDNS hears nothing more", "error", err)
			}
			return
		}
		asks, a, former, err := m.read(packet[:n])
		switch {
		case err != nil:
		case a.id == m.self:
			if _, own := m.socket.Ports()[from]; !own {
				m.conflict(from)
			}
		case asks:
			m.mu.Lock()
			m.former = m.former || former
			m.mu.Unlock()
			select {
			case m.asked <- struct{}{}:
			default: // an answer is due already
			}
		default:
			m.hear(a, from, former)
		}
	}
}

// read reads a packet under whichever of this node's names it has.
func (m *mdns) read(packet []byte) (asks bool, a announcement, former bool, err error) {
	m.mu.Lock()
	codecs := m.codecs
	m.mu.Unlock()
	for i, codec := range codecs {
		if asks, a, err = codec.read(packet); err == nil {
			return asks, a, i > 0, nil
		}
	}
	return false, announcement{}, false, err
}

func (m *mdns) hear(a announcement, from netip.Addr, former bool) {
	m.mu.Lock()
	m.heard[a.id] = time.Now()
	m.mu.Unlock()
	addrs := transportAddrs(from, int(a.port))
	m.sighted(peer.AddrInfo{ID: a.id, Addrs: []multiaddr.Multiaddr{addrs[0], addrs[1]}}, former)
}

// neighbours counts who was heard of late.
func (m *mdns) neighbours(now time.Time) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, at := range m.heard {
		if now.Sub(at) > mdnsForget {
			delete(m.heard, id)
		}
	}
	return len(m.heard)
}
