package roles

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestTheKernelDropsTheAddressWithinTheLease(t *testing.T) {
	for left, want := range map[time.Duration]int{
		VIPLease: 14, VIPLease - time.Millisecond: 13, VIPLease - time.Second: 13, 2 * time.Second: 1, 1999 * time.Millisecond: 0, 0: 0, -time.Hour: 0,
	} {
		require.Equal(t, want, VIPLifetime(time.Hour, time.Hour+VIPLease-left), "%s left", left)
	}
	require.Zero(t, VIPLifetime(time.Hour, time.Hour-1), "a clock that went back")
}

var testVIP = netip.MustParseAddr("192.168.1.100")

// vipSite is three masters and a worker that see each other, with an API server each.
func vipSite() VIPInput {
	in := VIPInput{Input: Input{Self: "m1", Now: time.Hour, Health: map[NodeID]Health{}, State: State{
		Policy: DefaultPolicy(), Roles: map[NodeID]Role{},
	}}, Able: map[NodeID]VIPAble{}}
	in.State.Policy.VIP = testVIP
	for id, role := range map[NodeID]Role{"m1": MasterInit, "m2": MasterHA, "m3": MasterHA, "w1": Worker} {
		in.State.Members = append(in.State.Members, Member{ID: id})
		in.State.Roles[id] = role
		in.Health[id] = Health{Alive: true, AliveFor: time.Hour}
		in.Able[id] = VIPAble{Carries: true, Serving: true}
	}
	return in
}

func TestWhoHoldsTheVirtualAddress(t *testing.T) {
	held := func(id NodeID, fence uint64) *VIP { return &VIP{Holder: id, Fence: fence, Status: VIPHeld} }
	revoked := func(id NodeID, fence uint64) *VIP { return &VIP{Holder: id, Fence: fence, Status: VIPRevoked} }
	for name, c := range map[string]struct {
		change func(*VIPInput)
		want   *VIP
		why    string
	}{
		"the first master by ID at first": {func(*VIPInput) {}, held("m1", 1), ""},
		"before Kubernetes runs": {func(in *VIPInput) {
			for id := range in.Able {
				in.Able[id] = VIPAble{Carries: true}
			}
		}, held("m1", 1), ""},
		"one whose API server answers first": {func(in *VIPInput) { in.Able["m1"] = VIPAble{Carries: true} }, held("m2", 1), ""},
		"never one without an interface":     {func(in *VIPInput) { delete(in.Able, "m1"); in.Able["m2"] = VIPAble{} }, held("m3", 1), ""},
		"nobody without an interface": {func(in *VIPInput) {
			in.Able = nil
		}, nil, "none that is alive has a network for it"},
		"a holder that is well keeps it": {func(in *VIPInput) { in.VIP = held("m3", 7) }, nil, ""},
		"a dead one loses it": {func(in *VIPInput) {
			in.VIP, in.Health["m3"] = held("m3", 7), Health{DeadFor: VIPDead}
		}, revoked("m3", 7), ""},
		"one that a new coordinator has not heard of yet keeps it": {func(in *VIPInput) {
			in.VIP, in.Health["m3"], in.Now = held("m3", 7), Health{DeadFor: time.Hour}, time.Second
		}, nil, ""},
		"one that is no master any more loses it": {func(in *VIPInput) { in.VIP = held("w1", 7) }, revoked("w1", 7), ""},
		"a short silence of its API server is nothing": {func(in *VIPInput) {
			in.VIP, in.Able["m3"] = held("m3", 7), VIPAble{Carries: true, Silent: VIPAPIDown - 1}
		}, nil, ""},
		"a long one moves it": {func(in *VIPInput) {
			in.VIP, in.Able["m3"] = held("m3", 7), VIPAble{Carries: true, Silent: VIPAPIDown}
		}, revoked("m3", 7), ""},
		"unless no other answers": {func(in *VIPInput) {
			in.VIP = held("m3", 7)
			for id := range in.Able {
				in.Able[id] = VIPAble{Carries: true, Silent: time.Hour}
			}
		}, nil, ""},
		"nobody gets it while the last holder may still have it": {func(in *VIPInput) {
			in.VIP, in.Health["m3"], in.Revoked = revoked("m3", 7), Health{DeadFor: time.Hour}, VIPLease+VIPGrace-1
		}, nil, "moves once its last holder has certainly dropped it"},
		"then another does": {func(in *VIPInput) {
			in.VIP, in.Health["m3"], in.Revoked = revoked("m3", 7), Health{DeadFor: time.Hour}, VIPLease+VIPGrace
		}, held("m1", 8), ""},
		"at once when the last holder put it down": {func(in *VIPInput) {
			in.VIP = &VIP{Holder: "w1", Fence: 7, Status: VIPReleased}
		}, held("m1", 8), ""},
		"or is the next as well": {func(in *VIPInput) { in.VIP = revoked("m1", 7) }, held("m1", 8), ""},
		"a site that wants none takes it away": {func(in *VIPInput) {
			in.VIP, in.State.Policy.VIP = held("m1", 7), netip.Addr{}
		}, revoked("m1", 7), ""},
		"and gives it to nobody": {func(in *VIPInput) {
			in.VIP, in.State.Policy.VIP, in.Revoked = revoked("m1", 7), netip.Addr{}, time.Hour
		}, nil, ""},
	} {
		in := vipSite()
		c.change(&in)
		got, waiting := NextVIP(in)
		require.Equal(t, c.want, got, name)
		require.Contains(t, fmt.Sprint(waiting), c.why, name)
	}
}

// TestS22TheVirtualAddressIsNeverOnTwoNodes lets holders freeze, be cut off and come back at any moment, answers arrive late,
// coordinators change with plans in their hands, and clocks run at different speeds. Address and kernel are as in
// node/vip.go. The one step that no program can fence is left out: a process that is frozen between its look at the clock
// and the system call right after it.
func TestS22TheVirtualAddressIsNeverOnTwoNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newVIPWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"time passes":     w.pass,
			"ask":             w.ask,
			"answer":          w.answer,
			"act":             w.act,
			"freeze or thaw":  w.freeze,
			"cut or heal":     w.cut,
			"new coordinator": w.newCoordinator,
			"plan":            w.plan,
			"commit":          w.commit,
			"renew":           w.renew,
			"life goes on":    w.live,
			"lose the holder": w.loseHolder,
			"":                w.check,
		})
		w.settle(t)
	})
}

// vipWorld is three masters with clocks of their own, and the ledger's record.
type vipWorld struct {
	now         time.Duration
	nodes       map[NodeID]*vipNode
	ids         []NodeID
	vip         *VIP
	coordinator NodeID
	office      time.Duration // by the coordinator's clock
	// planned is what a coordinator decided from an earlier record, and may still commit.
	planned, from *VIP
}

type vipNode struct {
	speed       float64
	frozen, cut bool
	since       time.Duration // of the last change that others see, in world time
	kernel      time.Duration // until when the address is on the interface, in world time
	// asked is when, by its own clock, the node asked the ledger; answer what that said, once it did.
	asking   bool
	asked    time.Duration
	answered bool
	answer   *VIP
	// revoked is when, by its own clock, it first saw the present grant revoked.
	revokedFence uint64
	revokedAt    time.Duration
}

func newVIPWorld(t *rapid.T) *vipWorld {
	w := &vipWorld{nodes: map[NodeID]*vipNode{}, coordinator: "m1", ids: []NodeID{"m1", "m2", "m3"}}
	for _, id := range w.ids {
		w.nodes[id] = &vipNode{speed: rapid.Float64Range(0.98, 1.02).Draw(t, "speed")}
	}
	return w
}

func (w *vipWorld) clock(id NodeID) time.Duration {
	return time.Duration(float64(w.now) * w.nodes[id].speed)
}

func (w *vipWorld) any(t *rapid.T, which func(*vipNode) bool) (NodeID, *vipNode) {
	var ids []NodeID
	for _, id := range w.ids {
		if which(w.nodes[id]) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		t.Skip("no such node")
	}
	id := rapid.SampledFrom(ids).Draw(t, "node")
	return id, w.nodes[id]
}

func (w *vipWorld) pass(t *rapid.T) {
	w.now += time.Duration(rapid.SampledFrom([]int{50, 500, 1000, 3000, 6000, 9000, 20000}).Draw(t, "ms")) * time.Millisecond
}

func (w *vipWorld) ask(t *rapid.T) {
	id, n := w.any(t, func(n *vipNode) bool { return !n.frozen })
	n.asking, n.answered, n.asked = true, false, w.clock(id)
}

// renew is ask, answer and act in one.
func (w *vipWorld) renew(t *rapid.T) {
	id, n := w.any(t, func(n *vipNode) bool { return !n.frozen && !n.cut })
	n.asking, n.answered, n.asked, n.answer = true, true, w.clock(id), w.record()
	w.actOn(t, id)
}

// live is a while in which everybody who can does what it should at once.
func (w *vipWorld) live(t *rapid.T) {
	for range rapid.IntRange(1, 40).Draw(t, "half seconds") {
		w.now += 500 * time.Millisecond
		if c := w.nodes[w.coordinator]; !c.frozen && !c.cut {
			w.plan(t)
			if w.planned != nil {
				w.commit(t)
			}
		}
		for _, id := range w.ids {
			if n := w.nodes[id]; !n.frozen && !n.cut {
				n.asking, n.answered, n.asked, n.answer = true, true, w.clock(id), w.record()
				w.actOn(t, id)
			}
		}
		w.check(t)
	}
}

// loseHolder freezes or cuts off the holder in the middle of its lease.
func (w *vipWorld) loseHolder(t *rapid.T) {
	if w.vip == nil || w.nodes[w.vip.Holder].frozen || w.nodes[w.vip.Holder].cut {
		t.Skip("there is none to lose")
	}
	n := w.nodes[w.vip.Holder]
	if rapid.Bool().Draw(t, "frozen") {
		n.frozen = true
	} else {
		n.cut = true
	}
	n.since = w.now
	w.now += VIPDead
	if w.coordinator == w.vip.Holder {
		w.newCoordinator(t)
	}
}

// answer is the ledger's: what it holds now, with a majority behind it. It reaches a frozen node too, which reads it later.
func (w *vipWorld) answer(t *rapid.T) {
	_, n := w.any(t, func(n *vipNode) bool { return n.asking && !n.answered && !n.cut })
	n.answered, n.answer = true, w.record()
}

func (w *vipWorld) record() *VIP {
	if w.vip == nil {
		return nil
	}
	copied := *w.vip
	return &copied
}

func (w *vipWorld) act(t *rapid.T) {
	id, _ := w.any(t, func(n *vipNode) bool { return n.answered && !n.frozen })
	w.actOn(t, id)
}

func (w *vipWorld) actOn(t *rapid.T, id NodeID) {
	n := w.nodes[id]
	n.asking, n.answered = false, false
	v := n.answer
	if v == nil || v.Holder != id || v.Status != VIPHeld {
		n.kernel = 0
		if v != nil && v.Holder == id && v.Status == VIPRevoked && !n.cut && w.vip.Fence == v.Fence && w.vip.Status == VIPRevoked {
			w.vip = &VIP{Holder: id, Fence: v.Fence, Status: VIPReleased}
		}
		return
	}
	seconds := VIPLifetime(n.asked, w.clock(id))
	if seconds == 0 {
		n.kernel = 0
		return
	}
	slack := time.Duration(rapid.IntRange(0, 1000).Draw(t, "kernel slack")) * time.Millisecond
	n.kernel = w.now + time.Duration(float64(time.Duration(seconds)*time.Second)/n.speed) + slack
}

func (w *vipWorld) freeze(t *rapid.T) {
	_, n := w.any(t, func(*vipNode) bool { return true })
	n.frozen, n.since = !n.frozen, w.now
}

func (w *vipWorld) cut(t *rapid.T) {
	_, n := w.any(t, func(*vipNode) bool { return true })
	n.cut, n.since = !n.cut, w.now
}

func (w *vipWorld) newCoordinator(t *rapid.T) {
	id, _ := w.any(t, func(n *vipNode) bool { return !n.cut && !n.frozen })
	w.coordinator, w.office = id, w.clock(id)
}

func (w *vipWorld) plan(t *rapid.T) {
	self := w.nodes[w.coordinator]
	if self.frozen {
		t.Skip("the coordinator is frozen")
	}
	now := w.clock(w.coordinator)
	in := vipSite()
	in.Self, in.Now, in.VIP = w.coordinator, now-w.office, w.record()
	if w.vip != nil && w.vip.Status == VIPRevoked {
		if self.revokedFence != w.vip.Fence {
			self.revokedFence, self.revokedAt = w.vip.Fence, now
		}
		in.Revoked = now - self.revokedAt
	}
	for _, id := range w.ids {
		n := w.nodes[id]
		in.Health[id] = Health{Alive: !n.frozen && !n.cut, AliveFor: w.now - n.since, DeadFor: w.now - n.since}
	}
	if next, _ := NextVIP(in); next != nil {
		w.planned, w.from = next, w.record()
	}
}

// commit is compare-and-set, perhaps of a plan of long ago.
func (w *vipWorld) commit(t *rapid.T) {
	if w.planned == nil {
		t.Skip("nothing is planned")
	}
	if w.vip == nil && w.from == nil || w.vip != nil && w.from != nil && *w.vip == *w.from {
		w.vip = w.planned
	}
	w.planned = nil
}

func (w *vipWorld) check(t *rapid.T) {
	var on []NodeID
	for _, id := range w.ids {
		if w.nodes[id].kernel > w.now {
			on = append(on, id)
		}
	}
	require.LessOrEqual(t, len(on), 1, "at %s the address is on %v (%+v)", w.now, on, w.vip)
}

// settle lets everybody run again, and the address is found somewhere.
func (w *vipWorld) settle(t *rapid.T) {
	for _, n := range w.nodes {
		n.frozen, n.cut, n.since = false, false, w.now
	}
	for range 40 {
		w.plan(t)
		if w.planned != nil {
			w.commit(t)
		}
		for _, id := range w.ids {
			n := w.nodes[id]
			n.asking, n.answered, n.asked, n.answer = true, true, w.clock(id), w.record()
			n.frozen = false
		}
		for range w.ids {
			w.act(t)
			w.check(t)
		}
		w.now += time.Second
	}
	require.Equal(t, VIPHeld, w.vip.Status)
	require.Greater(t, w.nodes[w.vip.Holder].kernel, w.now)
}
