package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// Config is one simulation. The zero value of a field has a meaning; Seed alone makes two runs of one Config differ.
type Config struct {
	Seed   uint64
	Nodes  int          // default 5
	Policy roles.Policy // zero: three masters, no Kubernetes
	// Delay and Loss are those of every packet. Default: 1 ms, none.
	Delay time.Duration
	Loss  float64
	// Spread is over how long the machines are switched on. Default: 3 s.
	Spread time.Duration
	// Skew sets the wall clocks up to an hour off, each way.
	Skew bool
	// SlowDisks is the part of nodes whose writes take up to two seconds.
	SlowDisks float64
	// Faults is for how long faults are made, from the first power-on. Afterwards all is repaired.
	Faults time.Duration
	// Settle is how long the site has afterwards. Default: 3 minutes.
	Settle time.Duration
	// Settled starts with a site that has been there for long: everybody a member with its place, and known to everybody.
	Settled bool
	// Decision proposes one decision when every node has its place, and waits until all that live hold it.
	Decision bool
	// CoordinatorLost cuts the coordinator's power just before that.
	CoordinatorLost bool
	// Idle measures, after that, what a minute of peace costs.
	Idle bool
	// Trace receives a line for each fault and each change of office.
	Trace func(string)

	founding ledger.FoundingTiming
	ledger   ledger.Timing
	repeat   float64 // of proposals that are proposed once more, late
}

// Result is what came of a simulation.
type Result struct {
	Violations []string
	Sites      int // that have decided something
	Replaced   int // masters whose place was given to another node
	// Founded, Placed and Held are when the first site was there, when every node had role and address in its own copy, and
	// how long the decision took until every node held it; 0: never.
	Founded, Placed, Held time.Duration
	// Noticed is how long after each power cut every living node of the site had noticed.
	Noticed []time.Duration
	// FalseDeaths counts beliefs that a node was dead while it lived and was reachable.
	FalseDeaths int
	// Gossip, Founding and Ledger are bytes sent until every node had its place, of all nodes.
	Gossip, Founding, Ledger int64
	Idle                     float64 // bytes sent for each node and second, in the last minute of peace
	Events                   uint64
	Plans                    int
	History                  []string // of each site: its entries' keys, for comparison of two runs
}

type world struct {
	queue
	cfg   Config
	rand  *rand.Rand
	net   network
	nodes []*node
	byID  map[string]int
	lans  []netip.Prefix

	sites     map[string]*site
	siteOrder []*site
	plans     map[uint64]*founders

	violations   []string
	abortedSites map[string]bool
	foundedBy    map[string]string
	founderOf    map[string]string
	boundTo      []string

	founded     time.Duration
	firstMember []time.Duration
	hasPlace    []bool
	placedCount int
	allPlaced   time.Duration
	held        map[string]int
	heldBy      map[string]time.Duration
	plansMade   int

	deaths      map[int]*death
	noticed     []time.Duration
	falseDeaths int
}

type death struct {
	at    time.Duration
	by    map[int]bool
	whole bool
}

// Run simulates one site, or what becomes of it.
func Run(cfg Config) Result {
	w := newWorld(cfg)
	if w.cfg.Settled {
		w.settle()
		w.run(5*time.Second, never)
	} else {
		w.switchOn()
	}
	if w.cfg.Faults > 0 {
		w.makeFaults()
		w.run(w.cfg.Faults, never)
		w.repair()
		w.run(w.now+w.cfg.Settle, never)
	} else if !w.cfg.Settled {
		w.run(w.cfg.Settle, func() bool { return w.allPlaced > 0 })
	}
	r := Result{}
	for _, n := range w.nodes {
		r.Gossip += n.bytes[forGossip]
		r.Founding += n.bytes[forFounding]
		r.Ledger += n.bytes[forLedger]
	}
	if w.cfg.Decision {
		r.Held = w.decide()
	}
	if w.cfg.Idle {
		w.run(w.now+2*time.Minute, never) // for the gossip of the beginning to end
		before := w.sent()
		w.run(w.now+time.Minute, never)
		r.Idle = float64(w.sent()-before) / 60 / float64(len(w.nodes))
	}
	w.judgeEnd()
	r.Violations, r.Founded, r.Placed = w.violations, w.founded, w.allPlaced
	r.Noticed, r.FalseDeaths, r.Events, r.Plans = w.noticed, w.falseDeaths, w.seq, w.plansMade
	for _, s := range w.siteOrder {
		if s.term > 0 {
			r.Sites++
		}
		r.Replaced += s.replaced
		r.History = append(r.History, s.history()...)
	}
	return r
}

func never() bool { return false }

func newWorld(cfg Config) *world {
	if cfg.Nodes == 0 {
		cfg.Nodes = 5
	}
	if cfg.Policy.Masters() == 0 || cfg.Policy == (roles.Policy{}) {
		cfg.Policy = roles.DefaultPolicy()
		cfg.Policy.Kubernetes = false // nobody here has an etcd, or takes a lost master out of one
		cfg.Policy.HA, cfg.Policy.AdditionalMasters = cfg.Nodes >= 3, 0
		if cfg.Policy.HA {
			cfg.Policy.AdditionalMasters = 2
		}
		cfg.Policy.MinimumNodes = min(cfg.Nodes, 3)
	}
	if cfg.Delay == 0 {
		cfg.Delay = time.Millisecond
	}
	if cfg.Spread == 0 {
		cfg.Spread = 3 * time.Second
	}
	if cfg.Settle == 0 {
		cfg.Settle = 3 * time.Minute
	}
	cfg.founding, cfg.ledger = ledger.SiteFoundingTiming(), ledger.SiteTiming()
	cfg.repeat = 0.05
	w := &world{
		cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 0x6d7573746572)), byID: map[string]int{},
		lans:  []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")},
		sites: map[string]*site{}, plans: map[uint64]*founders{}, abortedSites: map[string]bool{}, foundedBy: map[string]string{},
		founderOf: map[string]string{}, held: map[string]int{}, heldBy: map[string]time.Duration{}, deaths: map[int]*death{},
		boundTo: make([]string, cfg.Nodes), firstMember: make([]time.Duration, cfg.Nodes), hasPlace: make([]bool, cfg.Nodes),
	}
	w.net = network{delay: cfg.Delay, loss: cfg.Loss, group: make([]int, cfg.Nodes), deaf: map[link]bool{}}
	// Skew has a generator of its own, so that a run with and one without it are the same run.
	skew := rand.New(rand.NewPCG(cfg.Seed, 0x636c6f636b))
	for i := range cfg.Nodes {
		n := &node{w: w, index: i, id: newNodeID(i), server: -1}
		n.fsync = w.between(500*time.Microsecond, 8*time.Millisecond)
		if w.rand.Float64() < cfg.SlowDisks {
			n.fsync = w.between(100*time.Millisecond, 2*time.Second)
		}
		if off := time.Duration(skew.Int64N(int64(2*time.Hour))) - time.Hour; cfg.Skew {
			n.skew = off
		}
		w.nodes = append(w.nodes, n)
		w.byID[n.id] = i
	}
	return w
}

// switchOn gives the machines power within the spread, in any order.
func (w *world) switchOn() {
	for _, n := range w.nodes {
		w.after(w.between(0, w.cfg.Spread), n.powerOn)
	}
}

// settle makes a site whose beginning is long over. Its first nodes are the masters.
func (w *world) settle() {
	var all []roles.Candidate
	for i := range min(len(w.nodes), roles.MaxFounders) {
		all = append(all, w.candidate(i))
	}
	plan, why := roles.PlanFounding(all[0].ID, all)
	if len(why) > 0 {
		w.violate("a settled site cannot be founded: %v", why)
		return
	}
	cert := ledger.Certificate{Genesis: ledger.Genesis{
		Site: fmt.Sprintf("%016x", w.rand.Uint64()), Range: plan.Range.String(), Policy: must(json.Marshal(plan.Policy)),
	}}
	for _, id := range plan.Founders {
		cert.Genesis.Founders = append(cert.Genesis.Founders, string(id))
	}
	for _, id := range plan.Masters {
		cert.Genesis.Masters = append(cert.Genesis.Masters, string(id))
	}
	s := w.site(cert)
	state := *s.entries[0].state
	for i := len(plan.Founders); i < len(w.nodes); i++ {
		state.Members = append(state.Members, w.member(i, uint64(i)))
	}
	in := roles.Input{State: state, Health: map[roles.NodeID]roles.Health{}, Self: plan.Masters[0]}
	for _, n := range w.nodes {
		in.Health[roles.NodeID(n.id)] = roles.Health{Alive: true, LANs: w.lans}
	}
	state = roles.ApplyAll(state, roles.Next(in).Decisions...)
	s.entries = append(s.entries, entry{state: &state, at: w.now, size: 4096})
	for _, n := range w.nodes {
		n.disk.site, n.disk.copy = s, s.head()
		n.vote()
		n.disk.raft = s.head()
		n.powerOn()
		n.receiving = s.head()
		w.placed(n)
	}
	for _, n := range w.nodes {
		g := n.gossip
		g.rumours, g.aliveCount, g.hash, g.settled = nil, len(w.nodes), 0, n.clock()
		n.knownList = n.knownList[:0]
		for i := range w.nodes {
			g.views[i] = standing{state: alive, incarnation: 1, fact: 1, since: n.clock()}
			g.hash += mix(i, 1)
			n.known[i] = true
			n.knownList = append(n.knownList, i)
		}
	}
}

func must(raw []byte, err error) []byte {
	if err != nil {
		panic(err) // a policy is always JSON
	}
	return raw
}

func (w *world) between(low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(w.rand.Int64N(int64(high-low)))
}

func (w *world) trace(format string, args ...any) {
	if w.cfg.Trace != nil {
		w.cfg.Trace(fmt.Sprintf("%8.3fs ", w.now.Seconds()) + fmt.Sprintf(format, args...))
	}
}

func (w *world) sent() (all int64) {
	for _, n := range w.nodes {
		for _, b := range n.bytes {
			all += b
		}
	}
	return all
}

func (w *world) upMembers(s *site) int {
	count := 0
	for _, n := range w.nodes {
		if n.up && n.disk.site == s {
			count++
		}
	}
	return count
}

// decide commits one decision in the largest site and returns how long every living member took to hold it.
func (w *world) decide() time.Duration {
	const mark = "decision"
	var s *site
	for _, other := range w.siteOrder {
		if s == nil || w.upMembers(other) > w.upMembers(s) {
			s = other
		}
	}
	if s == nil {
		return 0
	}
	if c := s.coordinator; w.cfg.CoordinatorLost && c >= 0 {
		w.nodes[c].powerOff()
	}
	start := w.now
	var try func()
	try = func() {
		if w.held[mark] > 0 {
			return
		}
		from := w.rand.IntN(len(w.nodes))
		if n := w.nodes[from]; n.up && n.disk.site == s {
			s.propose(from, &proposal{what: "a decision", size: entryOverhead + decisionSize, mark: mark, apply: func(state roles.State) *roles.State {
				for _, e := range s.entries {
					if e.mark == mark {
						return nil
					}
				}
				next := state
				return &next
			}})
		}
		w.after(w.cfg.ledger.ProposeAttempt, try)
	}
	try()
	w.run(w.now+2*time.Minute, func() bool { return w.heldBy[mark] > 0 })
	if w.heldBy[mark] == 0 {
		return 0
	}
	return w.heldBy[mark] - start
}

// died starts the watch for who notices a death.
func (w *world) died(index int) {
	w.deaths[index] = &death{at: w.now, by: map[int]bool{}}
	w.trace("n%d loses power", index+1)
}

// noteDeath is one node believing another dead.
func (w *world) noteDeath(by, index int) {
	n := w.nodes[index]
	if n.up {
		if n.gossip != nil && w.nodes[by].gossip != nil && n.gossip.label == w.nodes[by].gossip.label && w.bothWays(by, index) {
			w.falseDeaths++
		}
		return
	}
	d := w.deaths[index]
	if d == nil || d.whole {
		return
	}
	d.by[by] = true
	for _, other := range w.nodes {
		if other.up && other.disk.site == n.disk.site && other.disk.site != nil && !d.by[other.index] {
			return
		}
	}
	d.whole = true
	w.noticed = append(w.noticed, w.now-d.at)
}

// history names every entry, so that two runs can be compared.
func (s *site) history() []string {
	var all []string
	for i, e := range s.entries {
		all = append(all, fmt.Sprintf("%s/%d %v members=%d addresses=%d epoch=%+v", s.id, i, e.at, len(e.state.Members), len(e.state.Addresses), e.state.Epoch))
	}
	return all
}
