package roles

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestPromisesHoldOverRandomHistories drives a site through crashes, cuts, late joins, returns, removals and changes of
// coordinator, with plans committed whole, in part, late and twice. After every step it checks what may never happen, and
// at the end that the site, once left in peace, becomes what it was asked to be.
func TestPromisesHoldOverRandomHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := foundRandomSite(t, randomPolicy().Draw(t, "policy"))
		t.Repeat(h.actions())
		h.settle(t)
	})
}

// TestPromisesHoldWhileTheControlPlaneForms begins where a cluster was just initialised, which few random histories reach.
func TestPromisesHoldWhileTheControlPlaneForms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := randomPolicy().Draw(t, "policy")
		policy.HA, policy.Kubernetes, policy.Auto = true, true, true
		policy.AdditionalMasters = rapid.SampledFrom([]int{2, 2, 4}).Draw(t, "masters")
		h := foundRandomSite(t, policy)
		h.planWhole(t)
		if h.state.Epoch != nil {
			h.startKubernetes(t, h.state.Epoch.Init)
			h.commit(t)
		}
		t.Repeat(h.actions())
		h.settle(t)
	})
}

func (h *history) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"kill":            h.kill,
		"boot":            h.boot,
		"cut":             h.cut,
		"rejoin":          h.rejoinOne,
		"wait":            h.wait,
		"new coordinator": h.newCoordinator,
		"plan":            h.planWhole,
		"plan in part":    h.planInPart,
		"plan for later":  h.planForLater,
		"late plan":       h.latePlan,
		"join":            h.join,
		"hear":            h.hear,
		"conflict":        h.conflict,
		"remove":          h.removeOne,
		"lose init":       h.loseInit,
		"lease":           h.lease,
		"lose master":     h.loseMaster,
		"strand etcd":     h.strand,
		"ask":             h.askForOne,
		"execute":         h.executeNow,
		"look":            h.lookForLater,
		"late executor":   h.executeLate,
		"clear":           func(*rapid.T) { h.clear() },
		"start":           h.start,
		"start all":       h.startAll,
		"commit CA":       h.commit,
		"":                h.check,
	}
}

// history is a simulated site, and what was true of it before.
type history struct {
	*simulation
	serial int
	late   []Decision
	looked []Replacement // what executors saw, and may do at any time later

	tenure map[NodeID]int

	owner map[netip.Addr]NodeID
	addr  map[NodeID]netip.Addr
	name  map[NodeID]string
	role  map[NodeID]Role
	epoch Epoch
	inits map[int]NodeID // who initialised a cluster for an epoch
}

func foundRandomSite(t *rapid.T, policy Policy) *history {
	h := &history{
		simulation: newSimulation(), owner: map[netip.Addr]NodeID{}, addr: map[NodeID]netip.Addr{},
		tenure: map[NodeID]int{}, name: map[NodeID]string{}, role: map[NodeID]Role{}, inits: map[int]NodeID{},
	}
	for range rapid.IntRange(0, 6).Draw(t, "others") {
		h.powerOn(h.randomMachine(t, policy))
	}
	for {
		static := None
		if !policy.Auto {
			static = Master
		}
		id := h.powerOn(Candidate{ID: h.newID(t), StaticRole: static, Policy: policy}).ID
		if founding, why := PlanFounding(id, h.visible()); len(why) == 0 {
			h.found(founding)
			return h
		}
	}
}

func randomPolicy() *rapid.Generator[Policy] {
	return rapid.Custom(func(t *rapid.T) Policy {
		p := DefaultPolicy()
		p.HA = rapid.Bool().Draw(t, "ha")
		if p.HA {
			p.AdditionalMasters = rapid.SampledFrom([]int{0, 2, 2, 4}).Draw(t, "master_nodes")
		}
		p.MinimumNodes = rapid.IntRange(1, 5).Draw(t, "minimum_nodes")
		p.Auto = rapid.IntRange(0, 4).Draw(t, "auto") > 0
		p.DynamicRoles = rapid.IntRange(0, 4).Draw(t, "dynamic_roles") > 0
		p.ReplaceAfter = rapid.SampledFrom([]time.Duration{20 * time.Second, 2 * time.Minute}).Draw(t, "replace_after")
		p.Kubernetes = rapid.IntRange(0, 4).Draw(t, "kubernetes") > 0
		return p
	})
}

// newID makes IDs whose order has nothing to do with the order of joining.
func (h *history) newID(t *rapid.T) NodeID {
	h.serial++
	return NodeID(fmt.Sprintf("12D3KooW%02d%04d", rapid.IntRange(0, 99).Draw(t, "id"), h.serial))
}

func (h *history) randomMachine(t *rapid.T, policy Policy) Candidate {
	c := Candidate{ID: h.newID(t), Policy: policy}
	c.Hostname = rapid.SampledFrom([]string{"", "localhost", "kairos", "kairos.lan", "Box_1", strings.Repeat("x", 80)}).Draw(t, "hostname")
	c.StaticRole = rapid.SampledFrom([]Role{None, None, None, Master, Worker}).Draw(t, "static role")
	c.LANs = []netip.Prefix{netip.MustParsePrefix(rapid.SampledFrom([]string{
		"192.168.1.0/24", "192.168.1.0/24", "10.1.0.0/24", "10.101.3.0/24", "fd00::/64",
	}).Draw(t, "lan"))}
	return c
}

func (h *history) pick(t *rapid.T, which func(id NodeID, m *machine) bool) NodeID {
	ids := slices.DeleteFunc(h.ids(), func(id NodeID) bool { return !which(id, h.machines[id]) })
	if len(ids) == 0 {
		t.Skip("there is no such machine")
	}
	return rapid.SampledFrom(ids).Draw(t, "machine")
}

func (h *history) kill(t *rapid.T) {
	h.setUp(h.pick(t, func(_ NodeID, m *machine) bool { return m.up }), false)
}

// lose takes a machine away, in one way or another.
func (h *history) lose(t *rapid.T, id NodeID) {
	if rapid.Bool().Draw(t, "killed") {
		h.setUp(id, false)
	} else {
		h.cutOff(id)
	}
}

// loseInit takes the init master away for longer than the grace, under the eyes of another coordinator.
func (h *history) loseInit(t *rapid.T) {
	if h.state.Epoch == nil {
		t.Skip("nobody initialises")
	}
	init := h.state.Epoch.Init
	h.lose(t, init)
	h.newCoordinator(t)
	h.now += FormationGrace
}

func (h *history) boot(t *rapid.T) {
	h.setUp(h.pick(t, func(_ NodeID, m *machine) bool { return !m.up }), true)
}

func (h *history) cut(t *rapid.T) {
	h.cutOff(h.pick(t, func(_ NodeID, m *machine) bool { return !m.cut }))
}

func (h *history) rejoinOne(t *rapid.T) {
	h.rejoin(h.pick(t, func(_ NodeID, m *machine) bool { return m.cut }))
}

func (h *history) wait(t *rapid.T) {
	h.now += time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second
}

func (h *history) newCoordinator(t *rapid.T) {
	h.takeOffice(h.pick(t, func(id NodeID, _ *machine) bool {
		role := h.state.Roles[id]
		m, known := h.state.member(id)
		return (role.IsMaster() || role == None && slices.Contains(h.state.Masters, id)) && known && !m.Removed && h.inService(id)
	}))
}

// next is a plan by the coordinator, with what holds for any plan.
func (h *history) next(t *rapid.T) []Decision {
	if !h.inService(h.coordinator) {
		t.Skip("there is no coordinator")
	}
	in := h.input()
	before := fmt.Sprintf("%+v", in)
	plan := Next(in)
	require.Equal(t, before, fmt.Sprintf("%+v", in), "Next changes its input")
	slices.Reverse(in.State.Members)
	slices.Reverse(in.State.Masters)
	require.Equal(t, plan, Next(in), "Next depends on an order")

	at := *h.state
	for _, d := range plan.Decisions {
		before := at
		at = Apply(at, d)
		switch d := d.(type) {
		case StartEpoch:
			if d.Supersedes > 0 {
				h.checkGone(t, before)
			}
			require.True(t, h.inService(d.Init) || d.Supersedes == 0, "a dead master takes over")
			require.False(t, h.machines[d.Init].Conflict, "planned with an identity conflict")
		case AssignAddress:
			require.False(t, h.machines[d.ID].Conflict, "planned with an identity conflict")
		case AssignRole:
			require.False(t, h.machines[d.ID].Conflict && d.Role != MasterHA, "planned with an identity conflict")
		case OpenReplacement:
			h.checkReplacement(t, before, d.Replacement)
		case GivePlace:
			if d.Successor != "" && d.Successor != d.Old {
				require.True(t, h.inService(d.Successor) && !h.machines[d.Successor].Conflict, "a dead successor")
			}
		}
	}
	return plan.Decisions
}

// checkGone is the rule of supersession seen from outside: the coordinator in office has itself seen the node dead.
func (h *history) checkGone(t *rapid.T, state State) {
	id := state.Epoch.Init
	if m, known := state.member(id); !known || m.Removed || state.Roles[id] == Worker {
		return
	}
	require.False(t, h.inService(id), "a live init master is superseded")
	watched := h.now - max(h.office, h.lastSeen[id])
	require.GreaterOrEqual(t, watched, FormationGrace, "an init master is superseded too early")
}

func (h *history) planWhole(t *rapid.T) {
	h.apply(h.next(t)...)
	require.Empty(t, Next(h.input()).Decisions, "a plan that is committed leaves something to decide")
}

func (h *history) planInPart(t *rapid.T) {
	decisions := h.next(t)
	for _, d := range decisions[:rapid.IntRange(0, len(decisions)).Draw(t, "committed")] {
		h.apply(d)
		h.check(t) // every prefix is a state that may last
	}
}

// planForLater keeps a plan that may commit at any time later, and again: its proposer lost the leadership.
func (h *history) planForLater(t *rapid.T) {
	h.late = append(h.late, h.next(t)...)
}

func (h *history) latePlan(t *rapid.T) {
	if len(h.late) == 0 {
		t.Skip("nothing is late")
	}
	h.apply(rapid.SliceOfN(rapid.SampledFrom(h.late), 1, 5).Draw(t, "late")...)
}

func (h *history) join(t *rapid.T) {
	if h.serial > 25 {
		t.Skip("enough machines")
	}
	c := h.randomMachine(t, h.state.Policy)
	h.joined++
	h.powerOn(c)
	h.enrol(c.ID)
	if rapid.Bool().Draw(t, "unheard") {
		delete(h.heard, c.ID)
	}
}

func (h *history) hear(t *rapid.T) {
	h.heard[h.pick(t, func(id NodeID, m *machine) bool { return !h.heard[id] && h.inService(id) })] = true
}

func (h *history) conflict(t *rapid.T) {
	m := h.machines[h.pick(t, func(NodeID, *machine) bool { return true })]
	m.Conflict = !m.Conflict
}

func (h *history) removeOne(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
		t.Skip("not this time")
	}
	h.remove(h.pick(t, func(id NodeID, _ *machine) bool { return id != h.coordinator }))
}

// start is a node that starts Kubernetes, if its own copy of the ledger lets it, and wipes first if it must.
func (h *history) start(t *rapid.T) {
	h.startKubernetes(t, h.pick(t, func(_ NodeID, m *machine) bool { return m.up }))
}

func (h *history) startKubernetes(t require.TestingT, id NodeID) {
	m, state := h.machines[id], h.seenBy(id)
	if wipe, _ := MustWipe(state, id, m.data); wipe {
		m.data, m.ready, m.caHash = Data{}, false, ""
	}
	if r := state.Replacement; r != nil && r.Old == id && r.Step != StepJoin {
		m.ready = false
	}
	may, why := MayStart(state, id)
	require.NotEqual(t, may, why != "", "may start, or why not")
	if !may {
		return
	}
	epoch := state.Epoch
	if epoch.CAHash == "" {
		require.Equal(t, epoch.Init, id, "somebody joins before the CA hash is committed")
		other, initialised := h.inits[epoch.N]
		require.True(t, !initialised || other == id, "epoch %d is initialised twice", epoch.N)
		h.inits[epoch.N] = id
		m.caHash = fmt.Sprintf("%s-%d", id, epoch.N)
	} else {
		m.caHash = epoch.CAHash
	}
	m.data, m.ready = Data{Epoch: epoch.N, Tenure: state.Tenures[id].N}, true
	if state.Roles[id].IsMaster() {
		if h.inService(id) {
			h.joinEtcd(id)
		}
		m.ready = !h.state.hasEtcd() || h.memberOf(id) != ""
	}
}

func (h *history) startAll(t *rapid.T) {
	for _, id := range h.upIDs() {
		h.startKubernetes(t, id)
	}
}

func (h *history) commit(*rapid.T) {
	for _, id := range h.ids() {
		if h.inService(id) {
			h.commitOwn(id)
		}
	}
}

// commitOwn may be refused: then the node wipes when it starts the next time.
func (h *history) commitOwn(id NodeID) {
	if m := h.machines[id]; h.inits[m.data.Epoch] == id {
		if h.commitCA(id, m.data.Epoch, m.caHash) == nil {
			h.joinEtcd(id)
		}
	}
}

// check is what holds in every state, however it came about.
func (h *history) check(t *rapid.T) {
	s := h.state
	for id, addr := range s.Addresses {
		require.True(t, s.Policy.Range.Contains(addr))
		owner, given := h.owner[addr]
		require.True(t, !given || owner == id, "address %s of %s is given to %s", addr, owner, id)
		old, had := h.addr[id]
		require.True(t, !had || old == addr, "%s had %s and has %s", id, old, addr)
		h.owner[addr], h.addr[id] = id, addr
	}
	masters, inits, names := 0, 0, map[string]NodeID{}
	for _, m := range s.live() {
		if name, has := s.Names[m.ID]; has {
			require.Equal(t, Label(name), name, "a name that DNS does not allow")
			require.NotContains(t, names, name, "two members have one name")
			require.True(t, h.name[m.ID] == "" || h.name[m.ID] == name, "a name changes")
			names[name], h.name[m.ID] = m.ID, name
		}
		role, old := s.Roles[m.ID], h.role[m.ID]
		moved := old == MasterInit && role == MasterHA || old == MasterHA && role == MasterInit
		if tenure := s.Tenures[m.ID].N; tenure > h.tenure[m.ID] {
			moved, h.tenure[m.ID] = true, tenure
		}
		require.True(t, old == None || old == role || moved, "%s was %q and is %q", m.ID, old, role)
		h.role[m.ID] = role
		if role.IsMaster() {
			masters++
			require.NotEqual(t, Worker, m.StaticRole, "a static worker is a master")
		}
		if role == MasterInit || role == Master {
			inits++
		}
		require.True(t, role != Master || !s.Policy.HA)
		require.True(t, role != MasterInit && role != MasterHA || s.Policy.HA)
	}
	require.LessOrEqual(t, masters, s.Policy.Masters(), "more masters than asked")
	require.LessOrEqual(t, inits, 1, "two masters initialise")
	h.checkEpoch(t)
}

func (h *history) checkEpoch(t *rapid.T) {
	if h.state.Epoch == nil {
		require.Zero(t, h.epoch, "the epoch disappears")
		return
	}
	old, now := h.epoch, *h.state.Epoch
	require.True(t, h.state.Policy.Kubernetes)
	require.GreaterOrEqual(t, now.N, old.N)
	if now.N == old.N {
		require.Equal(t, old.Init, now.Init, "the init master of an epoch changes")
		require.True(t, old.CAHash == "" || old.CAHash == now.CAHash, "the CA hash of an epoch changes")
		require.True(t, !old.FormedMasters || now.FormedMasters, "a formed control plane is forming again")
	} else {
		require.Empty(t, old.CAHash, "an epoch with a CA hash is superseded")
	}
	require.True(t, !now.FormedMasters || now.CAHash != "")
	h.epoch = now
}

// settle leaves the site in peace: everybody is back and heard, nobody shares a key. Then everything gets decided, or the
// plan says why not.
func (h *history) settle(t *rapid.T) {
	for _, id := range h.ids() {
		h.rejoin(id)
		h.setUp(id, true)
		h.heard[id], h.machines[id].Conflict, h.machines[id].lease = true, false, false
	}
	h.takeOffice(h.coordinator)
	// One replacement takes up to four rounds, and they come one after another.
	for range 12 + 4*len(h.ids()) {
		h.clear()
		if h.state.Replacement != nil {
			h.execute(*h.state.Replacement)
		}
		h.planWhole(t)
		h.check(t)
		for _, id := range h.ids() {
			h.startKubernetes(t, id)
			h.commitOwn(id)
		}
		h.now += FormationGrace
	}
	plan := Next(h.input())
	require.Empty(t, plan.Decisions)
	h.checkEverybodyHasARoleOrAReason(t, plan)
	h.checkClusterIsThere(t)
}

func (h *history) checkEverybodyHasARoleOrAReason(t *rapid.T, plan Plan) {
	for _, m := range h.state.live() {
		role := h.state.Roles[m.ID]
		obeyed := role != None && (m.StaticRole != Master || role.IsMaster()) && (m.StaticRole != Worker || role == Worker)
		excused := slices.ContainsFunc(plan.Waiting, func(w Waiting) bool { return w.ID == m.ID && w.Reason != "" })
		require.True(t, obeyed || excused, "%s (static %q) has role %q for no reason", m.ID, m.StaticRole, role)
		if !obeyed {
			require.NotEmpty(t, Explain(h.input(), m.ID))
		}
	}
}

// etcdWasRemoved tells whether so many of etcd's members were thrown out of the site, one by one or while another left its
// place, that nothing can bring it back.
func (h *history) etcdWasRemoved() bool {
	removed, leaving := 0, 0
	for _, owner := range h.etcd {
		m, _ := h.state.member(owner)
		switch r := h.state.Replacement; {
		case m.Removed:
			removed++
		case r != nil && r.Old == owner && r.Step == StepRemove:
			leaving++
		}
	}
	return removed > 0 && removed+leaving >= (len(h.etcd)+1)/2
}

func (h *history) checkClusterIsThere(t *rapid.T) {
	s := h.state
	masters := slices.DeleteFunc(s.live(), func(m Member) bool { return !s.Roles[m.ID].IsMaster() })
	if !s.Policy.Kubernetes || len(masters) == 0 {
		return
	}
	require.NotNil(t, s.Epoch)
	if init, _ := s.member(s.Epoch.Init); init.Removed && !s.Policy.HA {
		return
	}
	if h.etcdWasRemoved() {
		return
	}
	require.NotEmpty(t, s.Epoch.CAHash, "no cluster in the end")
	for _, m := range masters {
		require.Equal(t, s.Epoch.Init == m.ID && s.Policy.HA, s.Roles[m.ID] == MasterInit)
	}
	require.True(t, s.Epoch.FormedMasters || len(masters) < s.Policy.Masters(), "all masters are Ready and the control plane is not formed")
	for _, m := range s.live() {
		if s.Roles[m.ID] != None {
			require.True(t, h.machines[m.ID].ready, "%s waits: %s", m.ID, Explain(h.input(), m.ID))
			require.Equal(t, s.Epoch.CAHash, h.machines[m.ID].caHash, "%s is in another cluster", m.ID)
		}
	}
}
