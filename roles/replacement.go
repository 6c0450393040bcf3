package roles

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Tenure counts what a node was in the site: N grows whenever it is made master in place of worker, or the reverse, and its
// Kubernetes data of before has to go. Cleared is the last one for which the masters have forgotten what the node was (its
// Node, its node password, its etcd member), so that it may join as what it is.
type Tenure struct{ N, Cleared int }

// Step is how far a replacement has come.
type Step string

const (
	StepRemove  Step = "remove"  // a master takes the old node's etcd member and its Node away
	StepRemoved Step = "removed" // that is done: the place can be given on
	StepJoin    Step = "join"    // the successor becomes a master
)

// Replacement is a change of members under way. There is one at a time.
type Replacement struct {
	// Old leaves its place. Member is its etcd member, "" when it is none.
	Old    NodeID
	Member string
	// Survivor goes on alone with etcd's data when it is not "": Old and it were all of etcd (history S16).
	Survivor NodeID
	// Successor takes the place, "" when nobody does.
	Successor NodeID
	Step      Step
	// Gone: Old is no member afterwards. Else it is a worker.
	Gone   bool
	Reason string
}

// Request is what somebody asks for a node.
type Request string

const (
	// RequestLeave is a node's own wish, RequestRemove an operator's for a node that does not come back, and RequestReplace an
	// operator's for a master: give its place to a worker now.
	RequestLeave   Request = "leave"
	RequestRemove  Request = "remove"
	RequestReplace Request = "replace"
)

// OpenReplacement begins a replacement, and answers the request for it if there is one.
// Requires: no replacement is open but one whose successor is Old.
type OpenReplacement struct{ Replacement }

// NameMember says which etcd member the old node is, when it came to be one after the replacement was planned, and who goes
// on alone if only one other was.
// Requires: the replacement of Old is at StepRemove.
type NameMember struct {
	Old      NodeID
	Member   string
	Survivor NodeID
}

// AdvanceReplacement says that the old node is out of the cluster.
// Requires: the replacement of Old is at StepRemove.
type AdvanceReplacement struct{ Old NodeID }

// GivePlace makes the old node a worker, or no member, and the successor a master, at once. An old node that is its own
// successor keeps its place, and begins it anew.
// Requires: the replacement of Old is at StepRemoved, and another successor is a worker.
type GivePlace struct {
	Old, Successor NodeID
	Gone           bool
	Reason         string
}

// CloseReplacement ends a replacement.
// Requires: it is that of Old, and at StepJoin.
type CloseReplacement struct{ Old NodeID }

// DropRequest takes back a request that has nothing left to ask.
type DropRequest struct{ ID NodeID }

func (OpenReplacement) isDecision()    {}
func (NameMember) isDecision()         {}
func (AdvanceReplacement) isDecision() {}
func (GivePlace) isDecision()          {}
func (CloseReplacement) isDecision()   {}
func (DropRequest) isDecision()        {}

func (d OpenReplacement) String() string    { return spell(d) }
func (d NameMember) String() string         { return spell(d) }
func (d AdvanceReplacement) String() string { return spell(d) }
func (d GivePlace) String() string          { return spell(d) }
func (d CloseReplacement) String() string   { return spell(d) }
func (d DropRequest) String() string        { return spell(d) }

func aboutReplacement(d Decision) (NodeID, string) {
	switch d := d.(type) {
	case OpenReplacement:
		what := "is replaced"
		if d.Gone {
			what = "is removed"
		}
		if d.Member != "" {
			what += ", etcd member " + d.Member
		}
		what += goesOnAlone(d.Survivor)
		if d.Successor != "" {
			what += ", successor " + shown("", d.Successor)
		}
		return d.Old, fmt.Sprintf("%s (%s)", what, d.Reason)
	case NameMember:
		return d.Old, "is etcd member " + d.Member + goesOnAlone(d.Survivor)
	case AdvanceReplacement:
		return d.Old, "is out of the cluster"
	case GivePlace:
		what := "role worker"
		switch {
		case d.Gone:
			what = "no member any more"
		case d.Successor == d.Old:
			return d.Old, "keeps its place, and begins it anew"
		}
		if d.Successor != "" {
			what += ", its place goes to " + shown("", d.Successor)
		}
		return d.Old, what
	case CloseReplacement:
		return d.Old, "replacement finished"
	case DropRequest:
		return d.ID, "request answered"
	default:
		panic(fmt.Sprintf("unknown decision %T", d))
	}
}

// goesOnAlone is what is said of a survivor, "" for none.
func goesOnAlone(survivor NodeID) string {
	if survivor == "" {
		return ""
	}
	return ", etcd goes on with " + shown("", survivor) + " alone"
}

func (s *State) applyReplacement(d Decision) {
	r := s.Replacement
	switch d := d.(type) {
	case OpenReplacement:
		if r == nil || r.Step == StepJoin && r.Successor == d.Old {
			opened := d.Replacement
			s.Replacement = &opened
			delete(s.Requests, d.Old)
		}
	case NameMember:
		if r != nil && r.Old == d.Old && r.Step == StepRemove {
			r.Member, r.Survivor = d.Member, cmp.Or(r.Survivor, d.Survivor)
		}
	case AdvanceReplacement:
		if r != nil && r.Old == d.Old && r.Step == StepRemove {
			r.Step = StepRemoved
		}
	case GivePlace:
		if r != nil && r.Old == d.Old && r.Step == StepRemoved && r.Gone == d.Gone {
			s.givePlace(d)
		}
	case CloseReplacement:
		if r != nil && r.Old == d.Old && r.Step == StepJoin {
			s.Replacement = nil
		}
	case DropRequest:
		delete(s.Requests, d.ID)
	default:
		panic(fmt.Sprintf("unknown decision %T", d))
	}
}

func (s *State) givePlace(d GivePlace) {
	if d.Successor == d.Old {
		if s.Roles[d.Old].IsMaster() {
			s.beginTenure(d.Old)
		}
		s.Replacement = nil
		return
	}
	if d.Successor != "" {
		others := 0
		for _, m := range s.live() {
			if m.ID != d.Old && s.Roles[m.ID].IsMaster() {
				others++
			}
		}
		if !s.decidable(d.Successor) || s.Roles[d.Successor] != Worker || others >= s.Policy.Masters() {
			return
		}
	}
	master := s.Roles[d.Old] != Worker
	switch {
	case d.Gone:
		for i := range s.Members {
			if s.Members[i].ID == d.Old {
				s.Members[i].Removed = true
			}
		}
		delete(s.Roles, d.Old)
		delete(s.Names, d.Old)
	case master:
		s.Roles[d.Old] = Worker
		s.beginTenure(d.Old)
	}
	member := s.Replacement.Member
	s.Replacement = nil
	if d.Successor != "" {
		s.Roles[d.Successor] = MasterHA
		s.beginTenure(d.Successor)
		s.Replacement = &Replacement{Old: d.Old, Member: member, Successor: d.Successor, Step: StepJoin, Gone: d.Gone, Reason: d.Reason}
	}
}

// beginTenure counts. Where there is no cluster yet, nothing is to be forgotten.
func (s *State) beginTenure(id NodeID) {
	tenure := s.Tenures[id]
	tenure.N++
	if s.caHash() == "" {
		tenure.Cleared = tenure.N
	}
	s.Tenures[id] = tenure
}

// formed tells whether the loss of a master is somebody's loss. A site without Kubernetes has nothing to form.
func (s State) formed() bool {
	return !s.Policy.Kubernetes || s.Epoch != nil && s.Epoch.FormedMasters
}

// hasEtcd tells whether the masters are members of one etcd.
func (s State) hasEtcd() bool {
	return s.Policy.Kubernetes && s.Policy.HA && s.Policy.ExternalDB == "" && s.caHash() != ""
}

// planReplacement carries on the replacement that is open, or opens one: what was asked first, then what was lost.
func (p *planner) planReplacement() {
	if p.state.Replacement != nil {
		p.continueReplacement(*p.state.Replacement)
		return
	}
	p.planRequests()
	for _, id := range p.placeHolders() {
		p.superviseMaster(id)
	}
}

func (p *planner) continueReplacement(r Replacement) {
	switch r.Step {
	case StepRemove:
		switch {
		case p.state.caHash() == "":
			p.decide(AdvanceReplacement{Old: r.Old})
		case p.alive(r.Old) && !p.Health[r.Old].Stopped:
			p.wait(r.Old, "it leaves its place (%s): its Kubernetes has to stop first", r.Reason)
		case r.Survivor == "" && p.otherVoter(r.Old) != "":
			p.decide(NameMember{Old: r.Old, Member: p.Health[r.Old].EtcdMember, Survivor: p.otherVoter(r.Old)})
		case r.Survivor != "" && !p.alive(r.Survivor):
			p.wait(r.Old, "it leaves its place (%s), and %s, which alone has etcd's data, is dead: power it on", r.Reason, p.state.shown(r.Survivor))
		default:
			p.wait(r.Old, "it leaves its place (%s): a master takes it out of the cluster", r.Reason)
		}
	case StepRemoved:
		p.giveOn(r)
	case StepJoin:
		p.superviseSuccessor(r)
	}
}

func (p *planner) giveOn(r Replacement) {
	successor := NodeID("")
	if slices.Contains(p.placeHolders(), r.Old) && p.state.Policy.HA {
		if successor = r.Successor; successor == "" || !p.fit(successor) {
			successor = p.successor(r.Old)
		}
		if successor == "" && !r.Gone {
			successor = r.Old // there is nobody else, and it has lost nothing but its data
		}
	}
	p.decide(GivePlace{Old: r.Old, Successor: successor, Gone: r.Gone, Reason: r.Reason})
}

func (p *planner) superviseSuccessor(r Replacement) {
	h := p.Health[r.Successor]
	switch {
	case !p.state.decidable(r.Successor) || !p.state.Roles[r.Successor].IsMaster():
		p.decide(CloseReplacement{Old: r.Old})
	case h.Votes && (!p.state.Policy.Kubernetes || p.state.caHash() != "" && p.whyNotReady(r.Successor) == ""):
		p.decide(CloseReplacement{Old: r.Old})
	case p.seenDead(r.Successor) > 0:
		p.superviseMaster(r.Successor)
	default:
		p.wait(r.Successor, "it takes the place of %s, and is not a Ready master yet", p.state.shown(r.Old))
	}
}

// placeHolders are the masters, and the founding ones that never came to have a role: their places are taken too, unless they are to
// be workers.
func (p *planner) placeHolders() []NodeID {
	var all []NodeID
	for _, m := range p.state.live() {
		if p.state.Roles[m.ID].IsMaster() {
			all = append(all, m.ID)
		}
	}
	for _, id := range p.state.Masters {
		m, known := p.state.member(id)
		if p.state.Roles[id] == None && !m.Removed && (!known || m.StaticRole != Worker) && len(all) < p.state.Policy.Masters() {
			all = append(all, id)
		}
	}
	slices.Sort(all)
	return all
}

// lostAfter is for how long a master must be seen dead before its place is given on.
func (p *planner) lostAfter() time.Duration {
	if p.state.formed() {
		return p.state.Policy.ReplaceAfter
	}
	return min(FormationGrace, p.state.Policy.ReplaceAfter)
}

// superviseMaster gives the place of a dead master on, when both views call it dead and nothing is at risk, and else says
// what it waits for.
func (p *planner) superviseMaster(id NodeID) {
	dead, after := p.seenDead(id), p.lostAfter()
	r := p.state.Replacement
	if dead == 0 || r != nil && (r.Step != StepJoin || r.Successor != id) {
		return
	}
	h := p.Health[id]
	successor, survivor := p.successor(id), p.survivor(id)
	switch {
	case h.Conflict:
		// planAddress says so.
	case p.state.Policy.Masters() == 1 || !p.state.Policy.HA:
		p.wait(id, "it is the only master: nothing takes its place by itself; power it on, or found the site anew")
	case h.HoldsLease:
		p.wait(id, "it is dead and holds a reboot lease: it is expected back, and not replaced")
	case p.state.Epoch != nil && p.state.Epoch.Init == id && p.state.caHash() == "":
		// superviseInit has its say first.
	case !p.state.Policy.DynamicRoles:
		if successor == "" {
			p.wait(id, "it is dead; it would be replaced after %s, but no live worker may take its place, and p2p.dynamic_roles: false only reports", after)
			return
		}
		p.wait(id, "it is dead; %s would take its place after %s, but p2p.dynamic_roles: false only reports: `muster node replace %s` does it",
			p.state.shown(successor), after, p.state.shown(id))
	case dead < after:
		p.wait(id, "it has been dead for %s: its place is given on after %s", seconds(dead), after)
	case p.etcdObjects(id, after) != "":
		p.wait(id, "it is not replaced: %s", p.etcdObjects(id, after))
	case p.needed(id) != "":
		p.wait(id, "it is not replaced: %s", p.needed(id))
	case successor == "" && survivor == "":
		p.wait(id, "it is dead, and no live worker may take its place")
	default:
		p.decide(OpenReplacement{Replacement{
			Old: id, Member: h.EtcdMember, Survivor: survivor, Successor: successor, Step: StepRemove,
			Reason: fmt.Sprintf("dead for %s", after),
		}})
	}
}

// etcdObjects says why etcd's view does not allow to call a master dead (history S13), or "".
func (p *planner) etcdObjects(id NodeID, after time.Duration) string {
	h := p.Health[id]
	switch {
	case !p.state.hasEtcd() || h.EtcdMember == "":
		return "" // it never was one, or was removed already and died before it came back
	case p.survivor(id) != "":
		return ""
	case !h.EtcdDead:
		return "etcd on another master still reaches it, or has not said"
	case min(h.EtcdDeadFor, p.Now) < after && p.state.formed():
		return fmt.Sprintf("etcd on all other live masters has called it dead for %s, and must for %s", seconds(min(h.EtcdDeadFor, p.Now)), after)
	}
	return ""
}

// needed says why the cluster cannot do without a master now, or "".
func (p *planner) needed(id NodeID) string {
	others := 0
	for _, other := range p.placeHolders() {
		if other != id && p.alive(other) && !p.Health[other].Conflict {
			others++
		}
	}
	masters := len(p.placeHolders())
	if others < (masters-1)/2+1 {
		return fmt.Sprintf("of the %d other masters %d are alive, which is no majority: `muster ledger recover` is the way out", masters-1, others)
	}
	if !p.state.hasEtcd() || p.survivor(id) != "" {
		return ""
	}
	members, serving := 0, p.servingOthers(id)
	for _, h := range p.Health {
		if h.EtcdMember != "" {
			members++
		}
	}
	// Its Kubernetes stops first, so the others decide the removal.
	switch {
	case serving == 0:
		return "no other master's etcd answers: its data may be the only copy"
	case p.Health[id].EtcdMember != "" && serving < members/2+1:
		return fmt.Sprintf("of the %d members of etcd %d others answer, which is no majority without it", members, serving)
	}
	return ""
}

// survivor returns who goes on alone without a master that is dead for long enough, "" if nobody does.
func (p *planner) survivor(id NodeID) NodeID {
	if dead := p.seenDead(id); dead == 0 || dead < p.lostAfter() {
		return ""
	}
	return p.otherVoter(id)
}

// otherVoter returns the one master that has all of etcd's data when one that does not run and it are etcd's only voters,
// which happens while the control plane forms (history S16): nothing is written, and nobody joins. What a majority of two has
// written both have, so nothing is lost when the other goes on alone. It is "" in every other case, and while anything speaks
// against it.
func (p *planner) otherVoter(id NodeID) NodeID {
	lost := p.Health[id]
	if p.state.formed() || !p.state.hasEtcd() || lost.EtcdMember == "" || lost.EtcdLearner {
		return ""
	}
	survivor := NodeID("")
	for _, m := range p.state.live() {
		h := p.Health[m.ID]
		if m.ID == id || !p.state.Roles[m.ID].IsMaster() || !p.alive(m.ID) {
			continue
		}
		voter := h.EtcdMember != "" && !h.EtcdLearner
		switch {
		case h.Unheard || h.Conflict || h.EtcdServing:
			return ""
		case voter && (survivor != "" || h.EtcdVoters != 2 || min(h.AliveFor, p.Now) < p.lostAfter()):
			return "" // one that has just come back may yet find others
		case voter:
			survivor = m.ID
		}
	}
	return survivor
}

// servingOthers counts the other live masters whose etcd answers.
func (p *planner) servingOthers(id NodeID) int {
	n := 0
	for other, h := range p.Health {
		if other != id && h.EtcdServing && p.alive(other) {
			n++
		}
	}
	return n
}

// successor returns the live worker that takes the place of a master, "" if there is none: who asks to be a master first,
// then who holds no volumes of pods, because those stay behind (history S17), then who is Ready, then who came first.
func (p *planner) successor(old NodeID) NodeID {
	var fit []Member
	for _, m := range p.state.live() {
		if m.ID != old && p.fit(m.ID) {
			fit = append(fit, m)
		}
	}
	slices.SortStableFunc(fit, func(a, b Member) int {
		rank := func(no bool) int {
			if no {
				return 1
			}
			return 0
		}
		x, y := p.Health[a.ID], p.Health[b.ID]
		return cmp.Or(
			rank(a.StaticRole != Master)-rank(b.StaticRole != Master),
			rank(x.Volumes)-rank(y.Volumes), rank(!x.K8sReady)-rank(!y.K8sReady),
		)
	})
	if len(fit) == 0 {
		return ""
	}
	return fit[0].ID
}

// fit tells whether a worker may become a master now.
func (p *planner) fit(id NodeID) bool {
	m, _ := p.state.member(id)
	_, addressed := p.state.Addresses[id]
	_, asked := p.state.Requests[id]
	_, clash := overlap(p.state.Policy.Range, p.Health[id].LANs)
	h := p.Health[id]
	return p.state.decidable(id) && p.state.Roles[id] == Worker && addressed && p.state.Names[id] != "" && !asked && !clash &&
		m.StaticRole != Worker && (p.state.Policy.Auto || m.StaticRole == Master) &&
		p.alive(id) && !h.Conflict && !h.HoldsLease && !h.Unheard
}

// planRequests begins what somebody asks, or says why not.
func (p *planner) planRequests() {
	ids := make([]NodeID, 0, len(p.state.Requests))
	for id := range p.state.Requests {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		request := p.state.Requests[id]
		if !p.state.decidable(id) || request == RequestReplace && p.state.Roles[id] == Worker {
			p.decide(DropRequest{ID: id})
			continue
		}
		if why := p.refuses(id, request); why != "" {
			p.wait(id, "a request to %s it is refused: %s", request, why)
			continue
		}
		if p.state.Replacement != nil {
			continue // its turn comes
		}
		r := Replacement{Old: id, Member: p.Health[id].EtcdMember, Survivor: p.survivor(id), Step: StepRemove, Gone: request != RequestReplace, Reason: "asked to " + string(request)}
		if slices.Contains(p.placeHolders(), id) {
			r.Successor = p.successor(id)
		}
		p.decide(OpenReplacement{r})
	}
}

// Refuses says why what is asked for a node cannot be done now, "" if it can.
func Refuses(in Input, id NodeID, request Request) string {
	return newPlanner(in).refuses(id, request)
}

func (p *planner) refuses(id NodeID, request Request) string {
	role := p.state.Roles[id]
	switch {
	case !p.state.decidable(id):
		return "it is not a member of the site"
	case p.Health[id].HoldsLease:
		return "it holds a reboot lease"
	case request == RequestReplace && !role.IsMaster():
		return fmt.Sprintf("it is %s, and only a master is replaced", cmp.Or(string(role), "without a role"))
	case !slices.Contains(p.placeHolders(), id):
		return ""
	case p.state.Policy.Masters() == 1 || len(p.placeHolders()) == 1:
		return "it is the only master: the cluster would go with it"
	case p.state.Epoch != nil && p.state.Epoch.Init == id && p.state.caHash() == "":
		return "it is initialising the cluster"
	case p.needed(id) != "":
		return p.needed(id)
	case request == RequestReplace && p.successor(id) == "" && p.survivor(id) == "":
		return "no live worker may take its place"
	}
	return ""
}

// Successor returns who would take the place of a master now, "" if nobody would.
func Successor(in Input, id NodeID) NodeID { return newPlanner(in).successor(id) }
