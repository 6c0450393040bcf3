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
	socket  multicast
	codec   *mdnsCodec
	self    peer.ID
	sighted func(peer.AddrInfo)
	// conflict is told where somebody else announces our ID.
	conflict func(from netip.Addr)
	log      *slog.Logger

	mu    sync.Mutex
	heard map[peer.ID]time.Time // last
	asked chan struct{}         // somebody asks
}

func newMDNS(socket multicast, n Network, self peer.ID, sighted func(peer.AddrInfo), conflict func(netip.Addr), log *slog.Logger) *mdns {
	return &mdns{
		socket: socket, codec: newMDNSCodec(n), self: self, sighted: sighted, conflict: conflict, log: log,
		heard: map[peer.ID]time.Time{}, asked: make(chan struct{}, 1),
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
	for from, port := range m.socket.Ports() {
		packet, err := m.codec.announce(announcement{id: m.self, port: port})
		if err == nil {
			err = m.socket.Send(packet, from)
		}
		if err == nil && ask {
			err = m.socket.Send(m.codec.query, from)
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
		asks, a, err := m.codec.read(packet[:n])
		switch {
		case err != nil:
		case a.id == m.self:
			if _, own := m.socket.Ports()[from]; !own {
				m.conflict(from)
			}
		case asks:
			select {
			case m.asked <- struct{}{}:
			default: // an answer is due already
			}
		default:
			m.hear(a, from)
		}
	}
}

func (m *mdns) hear(a announcement, from netip.Addr) {
	m.mu.Lock()
	m.heard[a.id] = time.Now()
	m.mu.Unlock()
	addrs := transportAddrs(from, int(a.port))
	m.sighted(peer.AddrInfo{ID: a.id, Addrs: []multiaddr.Multiaddr{addrs[0], addrs[1]}})
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
