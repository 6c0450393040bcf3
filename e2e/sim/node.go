package sim

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"time"

	libp2pcrypto "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// node is one machine: what is on its disk outlives a crash, the rest does not.
type node struct {
	w     *world
	index int
	id    string

	// The machine.
	up    bool
	life  int           // counts boots; an event of an earlier life never happens
	fsync time.Duration // of one write
	skew  time.Duration // of its wall clock
	boot  time.Duration

	// On the disk.
	disk disk

	// In memory.
	known       []bool // whom discovery has found
	knownList   []int
	gossip      *gossip
	factVersion uint32
	stepper     *ledger.FoundingStepper
	busyUntil   time.Duration // the disk has not answered yet
	pending     *pendingWrite
	engaged     bool // a founding message or an own offer came up: the machine wants its ticks
	settling    settling
	enrolling   bool
	server      int // whose follower stream is open, -1: nobody's
	serverLife  int
	serverSince time.Duration // when the stream began
	heard       time.Duration // from the server, last
	receiving   int           // entries under way to the disk
	views       time.Duration // since when it watches the others, own clock
	led         time.Duration // when a coordinator that counts it among its servers last reached it, own clock
	ready       bool
	starting    bool

	bytes [trafficKinds]int64
}

// disk is what a node finds again after a crash.
type disk struct {
	founding    []byte
	site        *site // whose member it is
	copy        int   // index of the newest entry shown
	seats, seat int   // how many seats among the voters it has taken, and which one it has, 0: none
	raft        int   // the log of that seat: index of the newest entry that it has acknowledged
	factVersion uint32
	dataEpoch   int // of the Kubernetes data, 0: none
	caHash      string
}

type pendingWrite struct{ apply func() }

// newNodeID makes peer IDs that are the same in every run.
func newNodeID(index int) string {
	seed := make([]byte, ed25519.SeedSize)
	binary.BigEndian.PutUint64(seed, uint64(index)+1)
	key, err := libp2pcrypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		panic(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		panic(err)
	}
	return id.String()
}

// clock is the node's own, up to an hour off. Only differences of it are ever used, so the day on which the simulation
// begins is any.
func (n *node) clock() time.Duration { return 24*time.Hour + n.w.now + n.skew }

// after lets something happen in this life of the node.
func (n *node) after(d time.Duration, do func()) {
	life := n.life
	n.w.after(d, func() {
		if n.up && n.life == life {
			do()
		}
	})
}

// every repeats at even intervals from a random moment on, until do says no.
func (n *node) every(d time.Duration, do func() bool) {
	var again func()
	again = func() {
		if do() {
			n.after(d, again)
		}
	}
	n.after(n.w.between(0, d), again)
}

// write makes a change durable and goes on when it is. Until then the node's founding takes no message.
func (n *node) write(apply, then func()) {
	p := &pendingWrite{apply}
	n.pending = p
	n.busyUntil = n.w.now + n.fsync
	n.after(n.fsync, func() {
		apply()
		if n.pending == p {
			n.pending = nil
		}
		then()
	})
}

// powerOn boots the node from its disk.
func (n *node) powerOn() {
	if n.up {
		return
	}
	n.up, n.boot = true, n.w.now
	n.life++
	n.known, n.knownList = make([]bool, len(n.w.nodes)), nil
	n.engaged, n.enrolling, n.pending, n.busyUntil = false, false, nil, 0
	n.settling = settling{}
	n.server, n.receiving = -1, 0
	n.ready, n.starting = false, false
	n.factVersion = n.disk.factVersion + 1
	n.disk.factVersion = n.factVersion // on disk before anybody sees it
	n.views, n.led = n.clock(), n.clock()
	n.openFounding()
	n.engaged = n.disk.founding != nil
	n.join()
	n.announce(mdnsFirst)
	n.every(n.w.cfg.founding.Tick, n.tickFounding)
	n.every(lookAround, n.seekSite)
	n.every(reconcileKubernetes, n.reconcileKubernetes)
	n.every(followCheck, n.follow)
}

// openFounding takes part in foundings from where the disk says that the node left off.
func (n *node) openFounding() {
	stepper, err := ledger.NewFoundingStepper(ledger.FoundingStepperConfig{
		Self: n.id, Incarnation: fmt.Sprintf("%016x", n.index+1), Witness: n.disk.site != nil,
		Sign: cheapSign(n.id), Verify: cheapVerify, Timing: n.w.cfg.founding, Disk: n.disk.founding,
	})
	if err != nil {
		n.w.violate("%s cannot read its own founding: %v", n, err)
		return
	}
	n.stepper = stepper
}

// announce is mDNS: with growing pauses a node says that it is there.
func (n *node) announce(pause time.Duration) {
	n.w.shout(n.index, mdnsSize, func(to int) { n.w.nodes[to].discover(n.index) })
	n.after(n.w.between(pause/2, pause), func() { n.announce(min(2*pause, mdnsLast)) })
}

const (
	mdnsFirst = time.Second
	mdnsLast  = time.Minute
	mdnsSize  = 300
)

// powerOff cuts the power. A write that was under way has reached the disk or not; nobody was told in either case.
func (n *node) powerOff() {
	if !n.up {
		return
	}
	if n.pending != nil && n.w.rand.IntN(2) == 0 {
		n.pending.apply()
	}
	n.up, n.gossip, n.stepper = false, nil, nil
	n.w.died(n.index)
}

// join enters the gossip of the node's site, or of those that have none.
func (n *node) join() {
	label := "founding"
	if n.disk.site != nil {
		label = n.disk.site.id
	}
	n.gossip = newGossip(n, label)
	n.gossip.publish()
}

// discover is having heard of a node and having its address.
func (n *node) discover(other int) {
	if n.known[other] {
		return
	}
	n.known[other] = true
	n.knownList = append(n.knownList, other)
	n.w.nodes[other].greeted(n.index) // the connection tells both
}

func (n *node) greeted(other int) {
	if n.up && !n.known[other] {
		n.known[other] = true
		n.knownList = append(n.knownList, other)
	}
}

// candidates is whom gossip should hold alive.
func (n *node) candidates() []int { return n.knownList }

// publish is a change of the node's own facts.
func (n *node) publish() {
	n.factVersion++
	n.disk.factVersion = n.factVersion
	n.gossip.publish()
}

// changed wakes what looks at facts and members.
func (n *node) changed() {
	n.settling.changed = true
	if s := n.disk.site; s != nil && s.coordinator == n.index {
		s.wake()
	}
}

// String is a node as violations and traces name it.
func (n *node) String() string { return fmt.Sprintf("n%d", n.index+1) }

// state is the ledger as the node's own copy has it.
func (n *node) state() *roles.State {
	if n.disk.site == nil {
		return nil
	}
	return n.disk.site.entries[n.disk.copy].state
}

// cheapSign stands in for Ed25519.
func cheapSign(id string) func(string, []byte) ([]byte, error) {
	return func(context string, msg []byte) ([]byte, error) { return cheapSignature(id, context, msg), nil }
}

func cheapSignature(id, context string, msg []byte) []byte {
	h := uint64(14695981039346656037) // FNV-1a
	for _, part := range [...]string{id, context} {
		for i := range len(part) {
			h = (h ^ uint64(part[i])) * 1099511628211
		}
	}
	for _, b := range msg {
		h = (h ^ uint64(b)) * 1099511628211
	}
	signature := make([]byte, 64) // as long as a real one
	binary.BigEndian.PutUint64(signature, h)
	return signature
}

func cheapVerify(id peer.ID, context string, msg, sig []byte) error {
	if string(sig) != string(cheapSignature(id.String(), context, msg)) {
		return fmt.Errorf("bad signature")
	}
	return nil
}
