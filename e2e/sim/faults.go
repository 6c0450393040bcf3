package sim

import (
	"fmt"
	"maps"
	"time"

	"github.com/muster-edge/muster/roles"
)

// makeFaults draws the whole schedule of faults from the seed: what happens, to whom and when depends on nothing that the
// nodes do.
func (w *world) makeFaults() {
	for at := w.between(0, 4*time.Second); at < w.cfg.Faults; at += w.between(500*time.Millisecond, 15*time.Second) {
		fault := faults[w.rand.IntN(len(faults))]
		w.after(at, func() { fault(w) })
	}
}

// faults are chosen with the same chance each; what is there twice happens twice as often.
var faults = []func(*world){
	(*world).crash, (*world).crash, (*world).crash,
	(*world).returnOne, (*world).returnOne, (*world).returnOne,
	(*world).blackout,
	(*world).partition, (*world).partition,
	(*world).isolate,
	(*world).heal, (*world).heal,
	(*world).deafen, (*world).deafen,
	(*world).lose,
	(*world).slowDisk,
	(*world).askReplacement,
}

func (w *world) anyNode() *node { return w.nodes[w.rand.IntN(len(w.nodes))] }

func (w *world) crash() {
	n := w.anyNode()
	// Half of them are back soon, as after a watchdog's reset, some at once.
	back := w.between(0, 40*time.Second)
	soon := w.rand.IntN(2) == 0
	n.powerOff()
	if soon {
		w.after(back, n.powerOn)
	}
}

func (w *world) returnOne() {
	first := w.rand.IntN(len(w.nodes))
	for i := range w.nodes {
		if n := w.nodes[(first+i)%len(w.nodes)]; !n.up {
			w.trace("%s is switched on", n)
			n.powerOn()
			return
		}
	}
}

func (w *world) blackout() {
	back := w.between(time.Second, 30*time.Second)
	w.trace("blackout for %v", back)
	for _, n := range w.nodes {
		n.powerOff()
	}
	for _, n := range w.nodes {
		w.after(back+w.between(0, 20*time.Second), n.powerOn)
	}
}

// partition cuts the nodes into two or three groups.
func (w *world) partition() {
	groups := 2 + w.rand.IntN(2)
	for i := range w.nodes {
		w.net.group[i] = w.rand.IntN(groups)
	}
	w.trace("partition %v", w.net.group)
}

func (w *world) isolate() {
	n := w.anyNode()
	w.net.group[n.index] = len(w.nodes) + n.index
	w.trace("%s is cut off", n)
}

func (w *world) heal() {
	clear(w.net.group)
	clear(w.net.deaf)
	w.net.loss, w.net.delay = w.cfg.Loss, w.cfg.Delay
	w.trace("all links are whole")
}

// deafen cuts some links in one direction.
func (w *world) deafen() {
	for range 1 + w.rand.IntN(2*len(w.nodes)) {
		from, to := w.rand.IntN(len(w.nodes)), w.rand.IntN(len(w.nodes))
		if from != to {
			w.net.deaf[link{from, to}] = true
		}
	}
	w.trace("%d links are cut in one direction", len(w.net.deaf))
}

func (w *world) lose() {
	w.net.loss = 0.3 * w.rand.Float64()
	w.net.delay = w.between(time.Millisecond, 200*time.Millisecond)
	w.trace("loss %.0f %%, delay %v", 100*w.net.loss, w.net.delay)
}

func (w *world) slowDisk() {
	n := w.anyNode()
	n.fsync = w.between(time.Millisecond, 2*time.Second)
	w.trace("a write on %s takes %v", n, n.fsync)
}

// askReplacement is an operator who wants a master's place given to a worker.
func (w *world) askReplacement() {
	from, old := w.anyNode(), w.anyNode()
	s, id := from.disk.site, roles.NodeID(old.id)
	if !from.up || s == nil {
		return
	}
	w.trace("%s is asked to replace %s", from, old)
	s.propose(from.index, &proposal{
		what: fmt.Sprintf("replace %s", old), size: entryOverhead,
		apply: func(state roles.State) *roles.State {
			if state.Policy.Kubernetes || !state.Roles[id].IsMaster() {
				return nil
			}
			next := state
			next.Requests = maps.Clone(state.Requests)
			if next.Requests == nil {
				next.Requests = map[roles.NodeID]roles.Request{}
			}
			next.Requests[id] = roles.RequestReplace
			return &next
		},
	})
}

// repair ends every fault and gives everybody power.
func (w *world) repair() {
	w.heal()
	w.net.loss, w.net.delay = 0, time.Millisecond
	for _, n := range w.nodes {
		n.fsync = min(n.fsync, 10*time.Millisecond)
		n.powerOn()
	}
	w.trace("everything is repaired")
}
