package node

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// What a node waits for is said in whole sentences, which `muster why` prints as
// they are. Each names who is waited for and what would help.

// why returns what this node waits for, a sentence each, none twice. It is empty
// only when the node is healthy in its role and so is, as far as it can see, the
// site.
func (a *Agent) why() []string {
	all := []string{}
	add := func(sentences ...string) {
		for _, s := range sentences {
			if s = a.withNames(s); s != "" && !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	if err := a.phases.unwritten(); err != nil {
		add(fmt.Sprintf("the state directory cannot be written, is the disk full? (%s)", err))
	}
	add(a.damaged())
	if a.running() {
		add(a.refusedBy()...)
		if err := a.host.IdentityConflict(); err != nil {
			add("IdentityConflict: " + err.Error() + "; end one of the two machines, or wipe its state directory")
		}
	}
	add(a.loop.sentences()...)
	a.mu.Lock()
	m := a.member
	a.mu.Unlock()
	if m != nil {
		add(m.why()...)
	}
	if phase := a.phase(); len(all) == 0 && phase.Phase != PhaseRunning {
		add(cmp.Or(phase.Reason, phaseWords[phase.Phase]))
	}
	return all
}

// phaseWords say what goes on in a phase while nothing in particular is waited
// for.
var phaseWords = map[Phase]string{
	PhaseStarting:   "this node reads its identity and its state",
	PhaseSearching:  "this node looks for others with the same token and network_id",
	PhaseFounding:   "this node founds a site with others",
	PhaseEnrolling:  "this node asks a site to let it in",
	PhaseJoining:    "this node has no role and no address yet: the coordinator decides them",
	PhaseConnecting: "this node brings its end of the mesh up",
	PhaseInstalling: "Kubernetes starts on this node",
	PhaseBlocked:    "this node cannot go on by itself",
}

// withNames puts hostnames in the place of the peer IDs of known nodes.
func (a *Agent) withNames(sentence string) string {
	if !strings.Contains(sentence, peerIDPrefix) {
		return sentence
	}
	for _, f := range a.facts.All() {
		if id := f.ID.String(); strings.Contains(sentence, id) {
			sentence = strings.ReplaceAll(sentence, id, a.nameOf(f.ID))
		}
	}
	return sentence
}

// peerIDPrefix is how every peer ID of an Ed25519 key begins.
const peerIDPrefix = "12D3KooW"

// why names what the site lacks, as far as this node can see.
func (m *member) why() []string {
	_, state, err := m.view()
	if err != nil {
		return []string{err.Error()}
	}
	m.mu.Lock()
	waiting := m.waiting
	m.mu.Unlock()
	return siteView{
		self: m.self(), founded: m.founded(), status: m.ledger.Status(), state: state, health: m.health(state), waiting: waiting,
		name: func(id roles.NodeID) string {
			node, err := peerOf(id)
			if err != nil {
				return string(id)
			}
			return cmp.Or(state.Names[id], m.agent.nameOf(node))
		},
	}.why()
}

// siteView is what a member sees of its site.
type siteView struct {
	self    roles.NodeID
	founded bool
	status  ledger.Status
	state   roles.State
	health  map[roles.NodeID]roles.Health
	// waiting is the planner's, on the coordinator.
	waiting []roles.Waiting
	name    func(roles.NodeID) string
}

func (v siteView) why() []string {
	var all []string
	if s := v.status; s.Superseded > 0 {
		all = append(all, fmt.Sprintf("the site was recovered as generation %s, and this node is of generation %s: it gives way as soon as it has that generation's decisions",
			ledger.SpellGeneration(s.Superseded), ledger.SpellGeneration(s.Site.Generation)))
	}
	if err := v.status.Problem; err != nil {
		all = append(all, fmt.Sprintf("the copy of the decisions cannot be written, is the disk full? (%s)", err))
	}
	quorum := ""
	if v.founded && !v.status.Quorum {
		quorum = v.noQuorum()
		all = append(all, quorum)
	}
	if v.founded && !v.status.Voter && v.status.Following == "" {
		all = append(all, "no master can be reached to hear the site's decisions: "+v.names(v.masters())+" should be; what runs goes on")
	}
	for _, w := range v.waiting {
		all = append(all, v.about(w))
	}
	if quorum != "" {
		return all // it names whom nobody sees
	}
	if len(v.waiting) == 0 {
		for _, id := range v.masters() {
			if h := v.health[id]; !h.Alive && id != v.self {
				all = append(all, fmt.Sprintf("master %s has not been seen for %s: power it on, or look at its network", v.name(id), h.DeadFor.Truncate(time.Second)))
			}
		}
	}
	for _, id := range v.absent() {
		all = append(all, fmt.Sprintf("founding master %s has not taken its role yet, and has not been seen for %s: power it on, or look at its network", v.name(id), v.health[id].DeadFor.Truncate(time.Second)))
	}
	return all
}

// absent are the founding masters that promised, and were gone before they had
// entered themselves among the members. They vote, but have no role yet.
func (v siteView) absent() []roles.NodeID {
	member := func(id roles.NodeID) bool {
		return slices.ContainsFunc(v.state.Members, func(m roles.Member) bool { return m.ID == id })
	}
	return slices.DeleteFunc(slices.Clone(v.state.Masters), func(id roles.NodeID) bool {
		return id == v.self || v.health[id].Alive || member(id)
	})
}

// noQuorum says who keeps the masters from deciding, since when, and what would
// help.
func (v siteView) noQuorum() string {
	var down []roles.NodeID
	for _, id := range v.status.Voters {
		if n := nodeID(id); n != v.self && !v.health[n].Alive {
			down = append(down, n)
		}
	}
	total := len(v.status.Voters)
	needed := total/2 + 1
	switch up := total - len(down); {
	case up >= needed && len(down) == 0:
		return "the masters are electing a coordinator"
	case up >= needed:
		return fmt.Sprintf("the masters are electing a coordinator without %s, which cannot be seen", v.names(down))
	}
	help := "start " + v.names(down)
	if missing := needed - (total - len(down)); missing < len(down) {
		help = fmt.Sprintf("start %d of %s", missing, v.names(down))
	}
	where := "on a master that is left"
	if len(down) == total {
		where = "on any node"
	}
	never := "they never return"
	if len(down) == 1 {
		never = "it never returns"
	}
	return fmt.Sprintf("nothing can be decided: %d of %d masters must be up, and %s; what runs goes on. %s, or, if %s, run `muster ledger recover` %s",
		needed, total, v.notSeen(down), strings.ToUpper(help[:1])+help[1:], never, where)
}

// notSeen says for how long each has not been.
func (v siteView) notSeen(ids []roles.NodeID) string {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = fmt.Sprintf("%s has not been seen for %s", v.name(id), v.health[id].DeadFor.Truncate(time.Second))
	}
	slices.Sort(all)
	return enumerate(all)
}

// about names whom the planner's sentence is about.
func (v siteView) about(w roles.Waiting) string {
	switch w.ID {
	case "":
		return w.Reason
	case v.self:
		return aboutThisNode(w.Reason)
	}
	return v.name(w.ID) + ": " + w.Reason
}

// masters are the nodes with a master role, by ID.
func (v siteView) masters() []roles.NodeID {
	var all []roles.NodeID
	for id, role := range v.state.Roles {
		if role.IsMaster() {
			all = append(all, id)
		}
	}
	slices.Sort(all)
	return all
}

func (v siteView) names(ids []roles.NodeID) string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = v.name(id)
	}
	slices.Sort(names)
	return enumerate(names)
}

// aboutThisNode gives the planner's sentences about "it" their subject.
func aboutThisNode(sentence string) string {
	if strings.HasPrefix(sentence, "it ") || strings.HasPrefix(sentence, "its ") {
		return "this node: " + sentence
	}
	return sentence
}

// enumerate writes "a, b and c".
func enumerate(names []string) string {
	switch n := len(names); n {
	case 0:
		return "nobody"
	case 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
}

// alone says where a node that sees nobody has looked.
func (a *Agent) alone() string {
	c := a.opts.Config.P2P
	where := "by mDNS on this machine's links"
	if a.opts.NoMDNS {
		where = "with mDNS off"
	}
	if !c.DisableDHT {
		where += ", in the DHT"
	}
	if n := len(c.Bootstrap) + len(a.tokens.networks().Present.Bootstrap()); n > 0 {
		where += fmt.Sprintf(" and at the bootstrap addresses (%d)", n)
	}
	return fmt.Sprintf("no other node with this token and network_id %q answers, %s: the same token, a LAN in common or a p2p.bootstrap address that can be reached brings nodes together", c.NetworkID, where)
}

// drift returns in what this node's configuration differs from what the site
// decided. The site's policy counts; the difference is reported, because
// somebody meant it.
func (a *Agent) drift(l *ledger.Ledger) []string {
	state, err := siteState(l.View())
	if err != nil || len(state.Members) == 0 {
		return nil
	}
	return driftWarnings(a.policy(), state.Policy)
}

const driftSentence = "this node's configuration differs from the site's policy, which counts: "

func driftWarnings(own, site roles.Policy) []string {
	var all []string
	for _, phrase := range own.Drift(site) {
		all = append(all, driftSentence+phrase+" (`muster policy show`)")
	}
	return all
}

// Drift are the warnings about what the node's own configuration wants of the site
// and does not get.
func (s Status) Drift() []string {
	return slices.DeleteFunc(slices.Clone(s.Warnings), func(w string) bool { return !strings.HasPrefix(w, driftSentence) })
}

// nameOf is how a person knows a node: its hostname, else the end of its ID.
func (a *Agent) nameOf(id peer.ID) string {
	if f, ok := a.factsOf(id); ok && f.Hostname != "" {
		return f.Hostname
	}
	return short(id)
}
