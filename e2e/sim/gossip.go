package sim

import (
	"math"
	"slices"
	"time"

	"github.com/muster-edge/muster/p2p"
)

// Sizes on the wire, in bytes, as the product's own messages have them, framing included.
const (
	pingSize       = 80
	newsSize       = 90
	factSize       = 700
	digestSize     = 48 // for each fact that is listed
	gossipPacket   = 16 << 10
	gossipPeers    = 3 // memberlist's LAN default: news goes to so many at a time
	indirectProbes = 3 // and so many help to probe
	retransmitMult = 3 // factRetransmit of p2p
)

type health uint8

const (
	unseen health = iota
	alive
	suspect
	dead
)

// standing is what a node believes about another.
type standing struct {
	state       health
	incarnation uint32
	fact        uint32        // version of the newest fact held, 0: none
	since       time.Duration // on the believer's own clock
	confirmed   uint8         // by how many others a suspicion
	suspicion   uint32        // counts suspicions, so that an old timer ends nothing
}

// news is one sentence of gossip: a state, or (fact > 0) a fact.
type news struct {
	about       int
	state       health
	incarnation uint32
	fact        uint32
	by          int // who says so, of a suspicion
}

func (n news) size() int {
	if n.fact > 0 {
		return factSize
	}
	return newsSize
}

// rumour is news that is being told; kind and about name it, and only its newest generation counts.
type rumour struct {
	news
	generation uint32
}

func (n news) kind() int {
	if n.fact > 0 {
		return 1
	}
	return 0
}

// gossip is one node's part in the gossip of one label.
type gossip struct {
	n           *node
	label       string
	views       []standing
	rumours     [][]rumour // by how often they were told
	newest      [2][]uint32
	telling     bool
	incarnation uint32
	order       []int // whom to probe next
	aliveCount  int
	hash        uint64 // of the versions of all facts held
	settled     time.Duration
	pulling     bool
	pauses      map[int]*pause // until a lost peer is tried again
}

type pause struct {
	d    time.Duration
	next time.Duration
}

var timing = p2p.LANTiming()

func newGossip(n *node, label string) *gossip {
	g := &gossip{n: n, label: label, views: make([]standing, len(n.w.nodes)), incarnation: 1, pauses: map[int]*pause{}}
	g.newest = [2][]uint32{make([]uint32, len(n.w.nodes)), make([]uint32, len(n.w.nodes))}
	g.views[n.index] = standing{state: alive, incarnation: 1, since: n.clock()}
	g.aliveCount = 1
	n.every(timing.ProbeInterval, func() bool {
		if n.gossip != g {
			return false
		}
		g.probe()
		return true
	})
	n.every(timing.PushPullInterval, func() bool {
		if n.gossip != g {
			return false
		}
		if with := g.anybody(); with >= 0 {
			g.join(with)
		}
		return true
	})
	n.every(timing.RejoinMin, func() bool {
		if n.gossip != g {
			return false
		}
		g.rejoin()
		return true
	})
	return g
}

// peer returns another node's part in the same gossip, nil when it has none.
func (g *gossip) peer(index int) *gossip {
	other := g.n.w.nodes[index].gossip
	if other == nil || other.label != g.label {
		return nil
	}
	return other
}

// to carries something to a peer's part in this gossip.
func (g *gossip) to(index, size int, arrive func(*gossip)) {
	g.n.w.send(g.n.index, index, forGossip, size, func() {
		if other := g.peer(index); other != nil {
			arrive(other)
		}
	})
}

// publish is a change of the node's own fact.
func (g *gossip) publish() {
	g.learn(news{about: g.n.index, fact: g.n.factVersion})
}

// join compares everything with a peer.
func (g *gossip) join(index int) {
	g.to(index, g.digest(), func(other *gossip) {
		other.merge(g)
		other.to(g.n.index, other.digest(), func(back *gossip) {
			if back == g {
				g.merge(other)
			}
		})
	})
}

func (g *gossip) digest() int { return pingSize + digestSize*g.aliveCount }

// merge takes what a peer believes, and pulls the facts that are newer there. The peer's present belief stands for the one
// that it sent a moment ago.
func (g *gossip) merge(other *gossip) {
	for i := range other.views {
		theirs, ours := &other.views[i], &g.views[i]
		switch {
		case theirs.state == unseen || theirs.state == ours.state && theirs.incarnation <= ours.incarnation:
		case theirs.state == dead:
			// memberlist merges a dead node as a suspicion, so that it may refute.
			g.learn(news{about: i, state: suspect, incarnation: theirs.incarnation, by: other.n.index})
		default:
			g.learn(news{about: i, state: theirs.state, incarnation: theirs.incarnation, by: other.n.index})
		}
	}
	g.pull(other)
}

// pull takes the facts that are newer at a peer.
func (g *gossip) pull(other *gossip) {
	missing := 0
	for i := range other.views {
		if theirs := other.views[i].fact; theirs > g.views[i].fact {
			missing++
			g.learn(news{about: i, fact: theirs})
		}
	}
	other.n.bytes[forGossip] += int64(missing * factSize)
}

// learn takes one sentence, and passes it on if it is new.
func (g *gossip) learn(x news) {
	v := &g.views[x.about]
	if x.fact > 0 {
		if x.fact <= v.fact {
			return
		}
		g.hash += mix(x.about, x.fact) - mix(x.about, v.fact)
		v.fact = x.fact
		g.settled = g.n.clock()
		g.spread(x)
		g.n.changed()
		return
	}
	if x.about == g.n.index {
		if x.state != alive && x.incarnation >= g.incarnation {
			g.incarnation = x.incarnation + 1
			v.incarnation = g.incarnation
			g.spread(news{about: x.about, state: alive, incarnation: g.incarnation})
		}
		return
	}
	switch {
	case x.state == alive && (v.state == unseen || x.incarnation > v.incarnation):
	case x.state == suspect && v.state == suspect && x.incarnation == v.incarnation && v.confirmed == 0 && x.by != g.n.index:
		v.confirmed++
		g.spread(x)
		g.condemnAfter(x.about, suspicionTime(g.aliveCount)/time.Duration(timing.SuspicionMaxMult))
		return
	case x.state == suspect && v.state == alive && x.incarnation >= v.incarnation:
	case x.state == dead && (v.state == alive || v.state == suspect) && x.incarnation >= v.incarnation:
	default:
		return
	}
	lived, lives := v.state == alive || v.state == suspect, x.state != dead
	if lives && !lived {
		g.aliveCount++
	} else if lived && !lives {
		g.aliveCount--
	}
	if lived != lives || v.state == unseen {
		v.since = g.n.clock()
		g.n.changed()
	}
	v.state, v.incarnation, v.confirmed = x.state, x.incarnation, 0
	g.spread(x)
	switch x.state {
	case suspect:
		g.condemnAfter(x.about, suspicionTime(g.aliveCount))
	case dead:
		g.n.w.noteDeath(g.n.index, x.about)
	}
}

// mix makes a fact's version a part of the digest's hash.
func mix(about int, version uint32) uint64 {
	if version == 0 {
		return 0
	}
	x := uint64(about)<<32 | uint64(version)
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// suspicionTime is how long a suspect has to refute while nobody else confirms; memberlist's formula.
func suspicionTime(nodes int) time.Duration {
	scale := math.Max(1, math.Log10(math.Max(1, float64(nodes))))
	low := time.Duration(float64(timing.SuspicionMult) * scale * float64(timing.ProbeInterval))
	return low * time.Duration(timing.SuspicionMaxMult)
}

// condemnAfter ends a suspicion; an earlier end that was set for the same one counts as well.
func (g *gossip) condemnAfter(about int, d time.Duration) {
	v := &g.views[about]
	if v.confirmed == 0 {
		v.suspicion++
	}
	which := v.suspicion
	g.n.after(d, func() {
		if g.n.gossip == g && v.state == suspect && v.suspicion == which {
			g.learn(news{about: about, state: dead, incarnation: v.incarnation})
		}
	})
}

// spread queues news; what is said about the same node in the same kind is replaced.
func (g *gossip) spread(x news) {
	g.newest[x.kind()][x.about]++
	if len(g.rumours) == 0 {
		g.rumours = make([][]rumour, 1)
	}
	g.rumours[0] = append(g.rumours[0], rumour{x, g.newest[x.kind()][x.about]})
	if g.telling {
		return
	}
	g.telling = true
	g.n.after(g.n.w.between(0, timing.GossipInterval), g.tell)
}

// tell sends news to a few peers, and again at the next interval while there is any.
func (g *gossip) tell() {
	if g.n.gossip != g {
		return
	}
	for range gossipPeers {
		if to := g.anybody(); to >= 0 {
			if said, size := g.some(); size > 0 {
				g.to(to, size, func(other *gossip) { other.hear(said) })
			}
		}
	}
	if g.telling = g.pending() && g.aliveCount > 1; g.telling {
		g.n.after(timing.GossipInterval, g.tell)
	}
}

func (g *gossip) hear(said []news) {
	for _, x := range said {
		g.learn(x)
	}
}

func (g *gossip) pending() bool {
	return slices.ContainsFunc(g.rumours, func(level []rumour) bool { return len(level) > 0 })
}

// some takes the news that was told least often, as much as fits a packet.
func (g *gossip) some() (said []news, size int) {
	limit := retransmitMult * int(math.Ceil(math.Log10(float64(g.aliveCount+1))))
	for len(g.rumours) < limit {
		g.rumours = append(g.rumours, nil)
	}
	type told struct {
		level int
		rumour
	}
	var again []told
	for level := range g.rumours {
		rest := g.rumours[level]
		for len(rest) > 0 {
			r := rest[0]
			if g.newest[r.kind()][r.about] != r.generation {
				rest = rest[1:]
				continue
			}
			if size+r.size() > gossipPacket {
				break
			}
			rest = rest[1:]
			size += r.size()
			said = append(said, r.news)
			if level+1 < limit {
				again = append(again, told{level + 1, r})
			}
		}
		g.rumours[level] = rest
	}
	for _, r := range again {
		g.rumours[r.level] = append(g.rumours[r.level], r.rumour)
	}
	return said, size
}

// anybody returns a random peer that is believed to live, -1 if there is none.
func (g *gossip) anybody() int {
	for range 12 {
		i := g.n.w.rand.IntN(len(g.views))
		if s := g.views[i].state; i != g.n.index && (s == alive || s == suspect) {
			return i
		}
	}
	return g.scan()
}

func (g *gossip) scan() int {
	first := g.n.w.rand.IntN(len(g.views))
	for k := range g.views {
		i := (first + k) % len(g.views)
		if s := g.views[i].state; i != g.n.index && (s == alive || s == suspect) {
			return i
		}
	}
	return -1
}

// probe pings the next peer, asks others to ping it when it does not answer in time, and suspects it when nobody got
// through.
func (g *gossip) probe() {
	target := g.nextProbe()
	if target < 0 {
		return
	}
	answered := false
	ping := func(from *gossip) {
		from.to(target, pingSize, func(there *gossip) {
			there.to(from.n.index, pingSize, func(back *gossip) {
				if back != from {
					return
				}
				if from != g { // a helper tells
					from.to(g.n.index, pingSize, func(*gossip) { answered = true })
					return
				}
				answered = true
				g.compareHashes(there)
			})
		})
	}
	ping(g)
	g.n.after(timing.ProbeTimeout, func() {
		if answered || g.n.gossip != g {
			return
		}
		for range indirectProbes {
			if helper := g.anybody(); helper >= 0 && helper != target {
				g.to(helper, pingSize, ping)
			}
		}
	})
	g.n.after(timing.ProbeInterval, func() {
		if v := g.views[target]; !answered && g.n.gossip == g && v.state == alive {
			g.learn(news{about: target, state: suspect, incarnation: v.incarnation, by: g.n.index})
		}
	})
}

func (g *gossip) nextProbe() int {
	for range 2 {
		for len(g.order) > 0 {
			i := g.order[len(g.order)-1]
			g.order = g.order[:len(g.order)-1]
			if s := g.views[i].state; s == alive || s == suspect {
				return i
			}
		}
		for i, v := range g.views {
			if i != g.n.index && (v.state == alive || v.state == suspect) {
				g.order = append(g.order, i)
			}
		}
		g.n.w.rand.Shuffle(len(g.order), func(i, j int) { g.order[i], g.order[j] = g.order[j], g.order[i] })
	}
	return -1
}

// factsSettle is the product's: how long gossip is given before a difference of facts counts.
const factsSettle = 2 * time.Second

// compareHashes pulls what an answer to a ping shows to be missing.
func (g *gossip) compareHashes(other *gossip) {
	if g.hash == other.hash || g.pulling || g.n.clock()-g.settled < factsSettle {
		return
	}
	g.pulling = true
	g.n.after(time.Second, func() { g.pulling = false })
	g.to(other.n.index, g.digest(), func(there *gossip) {
		there.to(g.n.index, pingSize, func(back *gossip) {
			if back == g {
				g.pull(there)
			}
		})
	})
}

// rejoin compares with peers that are there and that gossip does not hold alive, each with growing pauses.
func (g *gossip) rejoin() {
	if g.aliveCount > len(g.n.candidates()) {
		clear(g.pauses)
		return // it sees everybody
	}
	now, tried := g.n.clock(), 0
	for _, i := range g.n.candidates() {
		if s := g.views[i].state; i == g.n.index || s == alive || s == suspect {
			if len(g.pauses) > 0 {
				delete(g.pauses, i)
			}
			continue
		}
		p := g.pauses[i]
		if p == nil {
			p = &pause{}
			g.pauses[i] = p
		}
		if now < p.next {
			continue
		}
		p.d = min(max(2*p.d, timing.RejoinMin), timing.RejoinMax)
		p.next = now + g.n.w.between(p.d/2, p.d)
		g.join(i)
		if tried++; tried == maxRejoins {
			break
		}
	}
}

// maxRejoins is how many are tried at a time: the dialer has as many dials in hand.
const maxRejoins = 16
