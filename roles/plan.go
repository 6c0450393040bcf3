package roles

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Plan is what the coordinator should propose, in this order, and what cannot be decided yet.
type Plan struct {
	Decisions []Decision
	Waiting   []Waiting
}

// Waiting says why something that concerns a member is not as it should be. An empty ID concerns the whole site.
type Waiting struct {
	ID     NodeID
	Reason string
}

// Next returns what is to be decided now. It depends on nothing but its input, does not change it, and has no decisions
// left once those that it returned are applied.
//
// Liveness plays no part in who gets which address, name or role, so that a node which is down for a moment gets what it
// would have had. It counts only for who initialises the cluster (epoch.go) and for when the control plane is formed.
func Next(in Input) Plan {
	var decisions []Decision
	for {
		pass := next(in)
		decisions = append(decisions, pass.plan.Decisions...)
		// A place that was given on may leave a role to be given, and so on: what waits is said of where it ends. Every pass
		// ends something for good, or the bound does.
		if len(pass.plan.Decisions) == 0 || len(decisions) > maxDecisions {
			return Plan{Decisions: decisions, Waiting: pass.plan.Waiting}
		}
		in.State = pass.state
	}
}

// maxDecisions bounds a plan. A site of a thousand newcomers is planned in several.
const maxDecisions = 5000

// next is one pass.
func next(in Input) *planner {
	p := newPlanner(in)
	if err := in.State.Policy.Validate(); err != nil {
		p.wait("", "the site's policy is impossible: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
		return p
	}
	if !in.State.Policy.Range.IsValid() {
		p.wait("", "the site's policy has no address range")
		return p
	}
	for _, m := range p.members {
		if p.planAddress(m) {
			p.planName(m)
		}
	}
	p.planEpoch()
	p.planRoles()
	p.masters = p.state.mastersDue()
	p.planControlPlane()
	p.planReplacement()
	return p
}

// planner is one run of Next. state is a copy to which every decision is applied as it is made, so that later ones build on
// it.
type planner struct {
	Input
	state   State
	masters []NodeID // who holds or is due a master role, in the order of their claim
	members []Member // those not removed: init master, other masters, the rest
	plan    Plan
}

func newPlanner(in Input) *planner {
	p := &planner{Input: in, state: in.State.clone()}
	p.masters = p.state.mastersDue()
	init := p.initMaster()
	rank := func(m Member) int {
		switch {
		case m.ID == init:
			return 0
		case slices.Contains(p.masters, m.ID):
			return 1
		default:
			return 2
		}
	}
	p.members = p.state.live()
	slices.SortStableFunc(p.members, func(a, b Member) int { return rank(a) - rank(b) })
	return p
}

func (p *planner) decide(d Decision) {
	p.plan.Decisions = append(p.plan.Decisions, d)
	p.state.apply(d)
}

func (p *planner) wait(id NodeID, format string, args ...any) {
	p.plan.Waiting = append(p.plan.Waiting, Waiting{ID: id, Reason: fmt.Sprintf(format, args...)})
}

// planAddress reports whether the member has an address, or has one now. The first node of a site gets the first one.
func (p *planner) planAddress(m Member) bool {
	if p.Health[m.ID].Conflict {
		p.wait(m.ID, "two live machines hold its key: end one of them, or give one a new identity")
		return false
	}
	lan, clash := overlap(p.state.Policy.Range, p.Health[m.ID].LANs)
	if _, has := p.state.Addresses[m.ID]; has {
		if clash {
			p.wait(m.ID, "its network %s now overlaps the mesh range %s: addresses in both are unreachable for it", lan, p.state.Policy.Range)
		}
		return true
	}
	if clash {
		p.wait(m.ID, "blocked: its network %s overlaps the mesh range %s, which was chosen when the site was founded; move it to another network",
			lan, p.state.Policy.Range)
		return false
	}
	// The masters' networks were checked at genesis.
	if h, watched := p.Health[m.ID]; (!watched || h.Unheard) && m.ID != p.Self && !slices.Contains(p.masters, m.ID) {
		p.wait(m.ID, "nothing was heard of it yet, so its networks are not known")
		return false
	}
	number, addr, err := p.state.nextAddress()
	if err != nil {
		p.wait(m.ID, "no address: %s", err)
		return false
	}
	p.decide(AssignAddress{ID: m.ID, Addr: addr, Counter: number + 1})
	return true
}

// nextAddress returns the next address and its number. The counter alone prevents reuse; one that somebody holds all the same
// is passed over, because after a recovery from an old copy the counter may be behind.
func (s State) nextAddress() (uint64, netip.Addr, error) {
	held := make(map[netip.Addr]bool, len(s.Addresses))
	for _, addr := range s.Addresses {
		held[addr] = true
	}
	for number := max(s.NextAddress, 1); ; number++ {
		addr, err := AddrForCounter(s.Policy.Range, number)
		if err != nil || !held[addr] {
			return number, addr, err
		}
	}
}

func (p *planner) planName(m Member) {
	if _, has := p.state.Names[m.ID]; !has {
		p.decide(AssignName{ID: m.ID, Name: uniqueName(m.Hostname, m.ID, p.state.nameTaken)})
	}
}

// mastersDue returns the members that hold a master role, and then, as long as fewer are there than asked, the founding
// masters that have no role yet. Everybody else is a worker, unless it asks for an open place (see openPlace).
func (s State) mastersDue() []NodeID {
	var holders, due []NodeID
	for _, m := range s.live() {
		founding := slices.Contains(s.Masters, m.ID) && m.StaticRole != Worker
		switch {
		case s.Roles[m.ID].IsMaster():
			holders = append(holders, m.ID)
		case s.Roles[m.ID] == None && founding:
			due = append(due, m.ID)
		}
	}
	slices.Sort(holders)
	slices.Sort(due)
	open := max(0, s.Policy.Masters()-len(holders))
	return append(holders, due[:min(open, len(due))]...)
}

// openPlace reports whether there are fewer masters than asked. A site without HA has one master for life: nobody can join
// its datastore.
func (p *planner) openPlace() bool {
	return p.state.Policy.HA && len(p.state.mastersDue()) < p.state.Policy.Masters()
}

// planRoles takes master/clusterinit from an old holder before it gives it to a new one, so that no prefix of the plan has
// two. The role follows the epoch: without one it stays where it is.
func (p *planner) planRoles() {
	init := p.initMaster()
	if holder := p.state.initHolder(); p.state.Epoch == nil && holder != "" {
		init = holder
	}
	for _, m := range p.members {
		if m.ID != init && p.state.Roles[m.ID] == MasterInit {
			p.decide(AssignRole{ID: m.ID, From: MasterInit, Role: MasterHA, Reason: "another master initialises the cluster"})
		}
	}
	for _, m := range p.members {
		if p.Health[m.ID].Conflict {
			continue
		}
		if _, has := p.state.Addresses[m.ID]; has {
			p.planRole(m, init)
		}
	}
}

func (p *planner) planRole(m Member, init NodeID) {
	current := p.state.Roles[m.ID]
	wanted, reason := p.wantedRole(m, init)
	switch {
	case wanted == None:
		p.wait(m.ID, "%s", reason)
	case current == None, current == MasterHA && wanted == MasterInit:
		p.decide(AssignRole{ID: m.ID, From: current, Role: wanted, Reason: reason})
	case current != wanted:
		p.wait(m.ID, "it is %s and should be %s (%s), but no role changes while a node holds cluster data: reset the node", current, wanted, reason)
	}
}

// wantedRole returns the role that a member should have and why, or None and why it gets none. A master's place is its own
// for as long as it is a member, whatever its configuration says later.
func (p *planner) wantedRole(m Member, init NodeID) (Role, string) {
	current := p.state.Roles[m.ID]
	place := slices.Contains(p.masters, m.ID)
	switch {
	case m.StaticRole == Worker && current.IsMaster():
		return None, fmt.Sprintf("static role worker refused: it is %s and holds cluster data; reset the node", current)
	case m.StaticRole == Worker && slices.Contains(p.state.Masters, m.ID) && current == None:
		return None, "static role worker refused: it founded the site as a master"
	case m.StaticRole != None && m.StaticRole != Worker && m.StaticRole != Master:
		return None, fmt.Sprintf("static role %q refused: there are master and worker", m.StaticRole)
	case !p.state.Policy.Auto && m.StaticRole == None && !place && current == None:
		return None, "no role: automatic roles are off (p2p.auto.enable: false) and it has no static role"
	}

	why := func(automatic string) string {
		if m.StaticRole != None {
			return "static role"
		}
		return automatic
	}
	switch {
	case place && !p.state.Policy.HA:
		return Master, why("the only master")
	case place && m.ID == init:
		return MasterInit, why("initialises the cluster")
	case place:
		return MasterHA, why("founding master")
	case current == Worker && m.StaticRole == Master:
		return None, "static role master refused: it is a worker already; reset the node"
	case m.StaticRole == Master && p.openPlace() && p.state.Policy.Kubernetes && p.state.caHash() == "":
		return None, "static role master: a place is open, and is given once the cluster is initialised"
	case m.StaticRole == Master && p.openPlace():
		return MasterHA, "static role, a master's place was open"
	case current == None && m.StaticRole == None && p.openPlace() && p.state.formed() && p.state.Replacement == nil &&
		len(p.placeHolders()) < p.state.Policy.Masters():
		return MasterHA, "a master's place was open"
	case m.StaticRole == Master:
		return None, fmt.Sprintf("static role master refused: the site has its %s (%s)",
			count(p.state.Policy.Masters(), "master"), list(p.state.shownAll(p.masters)))
	case current == None && slices.Contains(p.state.Masters, m.ID):
		return None, fmt.Sprintf("it founded the site as a master, but only %s asked", count(p.state.Policy.Masters(), "master"))
	default:
		return Worker, why("masters are chosen at genesis")
	}
}

func (s State) shownAll(ids []NodeID) []string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = s.shown(id)
	}
	return names
}
