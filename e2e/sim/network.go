package sim

import "time"

// traffic is what bytes are spent on.
type traffic int

const (
	forGossip traffic = iota
	forFounding
	forLedger
	trafficKinds
)

// network carries messages between nodes, or does not.
type network struct {
	delay time.Duration // of a packet; each takes between half and twice as long
	loss  float64       // of packets, 0 to 1
	group []int         // nodes of different groups do not reach each other
	deaf  map[link]bool // one direction of one link is cut
}

type link struct{ from, to int }

// reaches says whether packets get from one node to another now.
func (w *world) reaches(from, to int) bool {
	return from == to || w.net.group[from] == w.net.group[to] && !w.net.deaf[link{from, to}]
}

func (w *world) bothWays(a, b int) bool { return w.reaches(a, b) && w.reaches(b, a) }

func (w *world) latency() time.Duration {
	return time.Duration((0.5 + 1.5*w.rand.Float64()) * float64(w.net.delay))
}

// retransmit is how long a sender waits before it says again what was lost: QUIC's and TCP's first timeout on a LAN.
const retransmit = 200 * time.Millisecond

// send carries one message over a stream: what is lost comes again, later, and after some tries not at all. It needs the
// way back as well, for the acknowledgement. It arrives in the life of both nodes in which it was sent, or never.
func (w *world) send(from, to int, kind traffic, size int, arrive func()) {
	sender, receiver := w.nodes[from], w.nodes[to]
	sender.bytes[kind] += int64(size)
	if !receiver.up || !w.bothWays(from, to) {
		return
	}
	took := w.latency()
	for pause := retransmit; w.rand.Float64() < w.net.loss; pause *= 2 {
		if pause > 8*retransmit {
			return
		}
		sender.bytes[kind] += int64(size)
		took += pause
	}
	sent, received := sender.life, receiver.life
	w.after(took, func() {
		if sender.life == sent && receiver.up && receiver.life == received && w.reaches(from, to) {
			arrive()
		}
	})
}

// shout carries a datagram to whoever is there: mDNS.
func (w *world) shout(from int, size int, arrive func(to int)) {
	w.nodes[from].bytes[forGossip] += int64(size)
	for to, receiver := range w.nodes {
		if to == from || !receiver.up || receiver.known[from] || !w.reaches(from, to) || w.rand.Float64() < w.net.loss {
			continue
		}
		life := receiver.life
		w.after(w.latency(), func() {
			if receiver.up && receiver.life == life {
				arrive(to)
			}
		})
	}
}
