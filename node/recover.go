package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// recoverTimeout bounds a recovery once it is decided on; the ledger is closed
// meanwhile.
const recoverTimeout = 2 * time.Minute

// RecoveryRequest asks for the recovery of a ledger that has lost its quorum for
// good.
type RecoveryRequest struct {
	// Yes does it; else only the plan is made.
	Yes bool `json:"yes"`
	// LoseNewer goes on although a node that cannot be reached was seen with newer
	// decisions, or decisions that a worker alone has are left out.
	LoseNewer bool `json:"lose_newer"`
}

// observeLedger is what this node's facts say of its decisions.
func (a *Agent) observeLedger() (LedgerFacts, netip.Addr) {
	a.mu.Lock()
	m := a.member
	a.mu.Unlock()
	if m == nil {
		return LedgerFacts{}, netip.Addr{}
	}
	f := LedgerFacts{Generation: m.ledger.Site().Generation}
	if !m.ledger.Status().Quorum {
		f.Index = m.ledger.Index()
	}
	_, state, err := m.view()
	if err != nil {
		return f, netip.Addr{}
	}
	return f, state.Addresses[m.self()]
}

// recoverLedger plans, and does what was planned when it is asked to.
func (a *Agent) recoverLedger(ctx context.Context, ask RecoveryRequest) (RecoveryPlan, error) {
	a.mu.Lock()
	m := a.member
	a.mu.Unlock()
	if m == nil || !m.founded() {
		return RecoveryPlan{}, fmt.Errorf("%w: %w", ErrRefused, errNoSite)
	}
	p, do, err := m.planRecovery(ctx, ask)
	if err != nil || len(p.Refused) > 0 || !ask.Yes {
		return p, err
	}
	// Whoever asked may be gone before it is done; half of it is not to be had.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recoverTimeout)
	defer cancel()
	var next ledger.Site
	outcome, err := m.succeed(ctx, func(cfg ledger.Config) (err error) {
		next, err = ledger.Recover(cfg, do.from, do.highest, do.record, do.changes)
		return err
	})
	if err != nil {
		return p, err
	}
	select {
	case err = <-outcome:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return p, err
	}
	p.Done, p.Generation = true, ledger.SpellGeneration(next.Generation)
	a.log.Warn("the ledger was recovered", LogSite, next.ID, LogReason, "an operator ran `muster ledger recover` here")
	a.events.add("recovery", "generation "+p.Generation+" begins on this node", fmt.Sprintf("from decision %d; %d masters given up", p.Index, len(p.Lost)))
	return p, nil
}

// recoveryOrder is what a plan comes to.
type recoveryOrder struct {
	from    ledger.Copy
	highest uint64
	record  ledger.Recovery
	changes []ledger.Op
}

// planRecovery asks everybody in reach and makes the plan.
func (m *member) planRecovery(ctx context.Context, ask RecoveryRequest) (RecoveryPlan, recoveryOrder, error) {
	a := m.agent
	sightings := m.ledger.Survey(ctx)
	in := recoveryInput{
		self: a.identity.ID(), status: m.ledger.Status(), sightings: sightings, loseNewer: ask.LoseNewer,
		own: m.ledger.View(), serving: a.distro.State().Serving, facts: map[peer.ID]Facts{}, name: a.nameOf,
	}
	for _, f := range a.facts.All() {
		if facts, ok := a.factsOf(f.ID); ok && f.ID != in.self {
			in.facts[f.ID] = facts
		}
	}
	source := in.source()
	var err error
	if source == in.self {
		in.from, err = m.ledger.Copy()
	} else {
		in.from, err = ledger.FetchCopy(ctx, a.host, source, m.ledger.Site())
	}
	if err != nil {
		return RecoveryPlan{}, recoveryOrder{}, fmt.Errorf("recover the ledger: %w", err)
	}
	if in.state, err = siteState(in.from.View()); err != nil {
		return RecoveryPlan{}, recoveryOrder{}, fmt.Errorf("recover the ledger: %w", err)
	}
	plan := in.plan()
	order, err := in.order(plan)
	return plan, order, err
}

// recoveryInput is all that a recovery depends on.
type recoveryInput struct {
	self      peer.ID
	status    ledger.Status
	sightings []ledger.Sighting // this node's first
	own       ledger.View       // what this node itself has
	from      ledger.Copy       // the source's
	state     roles.State       // what it says
	facts     map[peer.ID]Facts // of others
	serving   bool              // this node's own API server answers
	loseNewer bool
	name      func(peer.ID) string
}

// source is who has most of what was decided in this node's generation; of
// equals this node.
func (in recoveryInput) source() peer.ID {
	best := in.sightings[0]
	for _, s := range in.sightings[1:] {
		if s.Site == best.Site && s.Index > best.Index && (in.believed(s.Node) || !in.loseNewer) {
			best = s
		}
	}
	return best.Node
}

// believed tells whether a copy needs nobody to vouch for it. How far a copy goes,
// and what is in it, is its holder's word. A master's counts; a worker's only where
// there is nothing better.
func (in recoveryInput) believed(id peer.ID) bool {
	masters := ledger.Masters(in.own)
	return id == in.self || slices.Contains(masters, id) || !slices.Contains(masters, in.self)
}

// unvouched names what a worker's copy alone says, and would give it power if it
// were a lie.
func (in recoveryInput) unvouched() []string {
	if in.believed(in.source()) {
		return nil
	}
	return powersChanged(in.own, in.from.View())
}

// powersChanged names in what two copies differ that gives a node power.
func powersChanged(own, theirs ledger.View) []string {
	var all []string
	if !slices.Equal(ledger.Masters(own), ledger.Masters(theirs)) {
		all = append(all, "who is a master")
	}
	for _, kind := range []struct{ prefix, name string }{
		{ledger.KeyPolicy, "the policy"},
		{ledger.KeyEpoch, "who initialises Kubernetes"},
		{ledger.KeyEnrolment, "the token"},
		{ledger.PrefixSecret, "the secrets"},
		{ledger.PrefixRevoked, "who was revoked"},
	} {
		same := func(a, b ledger.Entry) bool {
			return a.Key == b.Key && a.Index == b.Index && bytes.Equal(a.Value, b.Value)
		}
		if !slices.EqualFunc(own.List(kind.prefix), theirs.List(kind.prefix), same) {
			all = append(all, kind.name)
		}
	}
	return all
}

func (in recoveryInput) reached(id peer.ID) bool {
	return slices.ContainsFunc(in.sightings, func(s ledger.Sighting) bool { return s.Node == id })
}

func (in recoveryInput) isMaster() bool { return in.state.Roles[nodeID(in.self)].IsMaster() }

// plan says what would happen, and what speaks against it.
func (in recoveryInput) plan() RecoveryPlan {
	site := in.status.Site
	p := RecoveryPlan{
		Site: site.ID, From: ledger.SpellGeneration(site.Generation),
		Generation: fmt.Sprint(ledger.GenerationNumber(in.highest()) + 1),
		Node:       in.name(in.self), Source: in.name(in.source()), Index: in.from.View().Index(),
		Copies: []RecoveryCopy{}, Masters: []string{in.name(in.self)}, Lost: []string{}, Loses: []string{}, Refused: []string{},
	}
	for _, s := range in.sightings {
		p.Copies = append(p.Copies, RecoveryCopy{
			Node: in.name(s.Node), ID: s.Node.String(), Generation: ledger.SpellGeneration(s.Site.Generation), Index: s.Index, Voter: s.Voter,
		})
	}
	for _, id := range in.masters() {
		switch {
		case id == in.self:
		case in.reached(id):
			p.Masters = append(p.Masters, in.name(id))
		default:
			p.Lost = append(p.Lost, in.name(id))
		}
	}
	p.Kubernetes = in.kubernetes()
	p.Loses = in.loses(p)
	p.Refused = in.refusals()
	return p
}

// masters are who holds the role in the copy.
func (in recoveryInput) masters() []peer.ID { return ledger.Masters(in.from.View()) }

// highest is the highest generation seen anywhere.
func (in recoveryInput) highest() uint64 {
	highest := max(in.status.Site.Generation, in.status.Superseded)
	consider := func(claimed uint64) {
		if ledger.Supersedes(claimed, in.status.Site.Generation) { // no claim that is out of all bounds
			highest = max(highest, claimed)
		}
	}
	for _, s := range in.sightings {
		consider(s.Site.Generation)
	}
	for id, f := range in.facts {
		if ledger.IsMember(in.from.View(), id) {
			consider(f.Ledger.Generation)
		}
	}
	return highest
}

// refusals are what speaks against a recovery, a sentence each.
func (in recoveryInput) refusals() []string {
	var all []string
	site := in.status.Site
	voting := 0
	for _, s := range in.sightings {
		switch {
		case ledger.Supersedes(s.Site.Generation, site.Generation):
			all = append(all, fmt.Sprintf("%s is in generation %s already: this node gives way to it by itself", in.name(s.Node), ledger.SpellGeneration(s.Site.Generation)))
		case s.Site != site:
			all = append(all, fmt.Sprintf("%s is in generation %s, which was recovered beside this node's %s: reset the nodes of the one that is to end",
				in.name(s.Node), ledger.SpellGeneration(s.Site.Generation), ledger.SpellGeneration(site.Generation)))
		case s.Coordinator != "":
			who := s.Coordinator
			if id, err := peer.Decode(who); err == nil {
				who = in.name(id)
			}
			all = append(all, fmt.Sprintf("there is a quorum: %s knows %s as the coordinator", in.name(s.Node), who))
		case s.Voter && slices.Contains(in.status.Voters, s.Node):
			voting++
		}
	}
	if total := len(in.status.Voters); total > 0 && voting > total/2 {
		all = append(all, fmt.Sprintf("%d of %d masters answer, which is a majority: they elect a coordinator by themselves", voting, total))
	}
	if !in.loseNewer {
		all = append(all, in.newer()...)
	}
	if what := in.unvouched(); len(what) > 0 {
		all = append(all, fmt.Sprintf("the newest copy is that of the worker %s, and it alone says what changed about %s: bring a master with it in reach, or say --lose-newer to go on from what masters have",
			in.name(in.source()), enumerate(what)))
	}
	if in.isMaster() {
		if in.serving && embeddedEtcd(in.state) && len(in.masters()) > 1 {
			all = append(all, "this node's Kubernetes API answers, so etcd has its majority and the other masters' machines run: start their agents instead")
		}
		return slices.Compact(all)
	}
	for _, id := range in.masters() {
		if in.reached(id) {
			all = append(all, fmt.Sprintf("master %s answers, and holds what Kubernetes has stored: run `muster ledger recover` there", in.name(id)))
		}
	}
	if in.state.Policy.ExternalDB != "" {
		all = append(all, "this node is a worker and cannot read the server token, without which nobody reads the external datastore: bring one of the masters back")
	}
	return slices.Compact(all)
}

// newer are the nodes out of reach that were seen with more than was found.
func (in recoveryInput) newer() []string {
	var all []string
	index := in.from.View().Index()
	for id, f := range in.facts {
		if in.reached(id) || !ledger.IsMember(in.from.View(), id) {
			continue
		}
		switch l := f.Ledger; {
		case ledger.Supersedes(l.Generation, in.status.Site.Generation):
			all = append(all, fmt.Sprintf("%s, which cannot be reached, was seen in generation %s: bring it in reach, or say --lose-newer", in.name(id), ledger.SpellGeneration(l.Generation)))
		case l.Generation == in.status.Site.Generation && l.Index > index:
			all = append(all, fmt.Sprintf("%s, which cannot be reached, was seen with decision %d, and the newest here is %d: bring it in reach, or say --lose-newer", in.name(id), l.Index, index))
		}
	}
	slices.Sort(all)
	return all
}

// kubernetes says what becomes of the cluster.
func (in recoveryInput) kubernetes() string {
	switch {
	case !in.state.Policy.Kubernetes:
		return "Kubernetes is off."
	case in.state.Policy.ExternalDB != "":
		return "Kubernetes goes on with its external datastore."
	case !in.isMaster():
		return "Kubernetes begins anew on this node, EMPTY: what it had stored was on the lost masters. Every node wipes and joins the new cluster; local volumes are moved aside. " +
			"A snapshot of etcd, if there is one, is restored with `k3s server --cluster-reset --cluster-reset-restore-path=FILE` afterwards."
	case embeddedEtcd(in.state) && len(in.masters()) > 1:
		return "Kubernetes goes on with what this node's etcd holds: its API stops for a minute while K3s runs with --cluster-reset, pods run on. The other masters wipe, and join it as new members; workers start K3s again. " +
			"Node objects of machines that never return are yours to delete (kubectl delete node)."
	}
	return "Kubernetes goes on with what this node holds."
}

// loses says what is gone afterwards.
func (in recoveryInput) loses(p RecoveryPlan) []string {
	all := []string{fmt.Sprintf("decisions after %d of generation %s, if there were any that no node in reach has heard of", p.Index, p.From)}
	if len(p.Lost) > 0 {
		all = append(all, fmt.Sprintf("%s stop being masters. None of them may come back unwiped where it cannot see this node: they would decide for themselves. "+
			"Where they see it they give way, and a server among them wipes its Kubernetes data before it starts it", enumerate(p.Lost)))
	}
	for id, f := range in.facts {
		if !ledger.IsMember(in.from.View(), id) && f.Address.IsValid() {
			all = append(all, fmt.Sprintf("%s was let in (%s) by a decision that is lost: reset it, and it joins anew", in.name(id), f.Address))
		}
	}
	slices.Sort(all[1:])
	return all
}

// order is what the ledger has to be told.
func (in recoveryInput) order(p RecoveryPlan) (recoveryOrder, error) {
	o := recoveryOrder{from: in.from, highest: in.highest()}
	var all error
	set := func(key string, value []byte, err error) {
		all = errors.Join(all, err)
		o.changes = append(o.changes, ledger.Op{Key: key, Value: value})
	}
	role := func(id peer.ID, role, reason string) {
		// Whoever stops being a master wipes what it was before (roles.Tenure).
		next := ledger.Role{Role: role, Reason: reason}
		if old, ok, err := ledger.Read[ledger.Role](in.from.View(), ledger.RoleKey(id)); ok && err == nil {
			next.Tenure, next.Cleared = old.Value.Tenure, old.Value.Cleared
		}
		if id != in.self {
			next.Tenure++
		}
		value, err := ledger.EncodeRecord(next)
		set(ledger.RoleKey(id), value, err)
	}
	for _, id := range in.masters() {
		if id != in.self && !in.reached(id) {
			o.record.Lost = append(o.record.Lost, id.String())
			role(id, ledger.RoleWorker, "was lost as a master when generation "+p.Generation+" began")
		}
	}
	view := in.from.View()
	if in.isMaster() {
		o.record.Kept = []string{in.self.String()}
	} else {
		mine := ledger.RoleMaster
		if in.state.Policy.HA {
			mine = ledger.RoleClusterInit
		}
		role(in.self, mine, "all masters were lost when generation "+p.Generation+" began")
		if in.state.Policy.Kubernetes {
			epoch := ledger.Epoch{N: 1, Init: in.self.String()}
			if in.state.Epoch != nil {
				epoch.N = in.state.Epoch.N + 1
			}
			value, err := ledger.EncodeRecord(epoch)
			set(ledger.KeyEpoch, value, err)
		}
		// Sealed to who is gone.
		for _, name := range []string{ledger.SecretServerToken, ledger.SecretKubeconfig} {
			for _, e := range view.List(ledger.SecretKey(name)) {
				o.changes = append(o.changes, ledger.Op{Key: e.Key, Delete: true})
			}
		}
	}
	if next := in.nextAddress(); next > in.state.NextAddress {
		value, err := ledger.EncodeRecord(ledger.Counter{Next: next})
		set(ledger.KeyCounter, value, err)
	}
	return o, all
}

// nextAddress is behind every address that anybody was seen with: a decision that
// gave it may be lost.
func (in recoveryInput) nextAddress() uint64 {
	next := in.state.NextAddress
	for _, f := range in.facts {
		if !f.Address.IsValid() {
			continue
		}
		if n, err := ledger.AddressOffset(in.state.Policy.Range.String(), f.Address.String()); err == nil {
			next = max(next, n+1)
		}
	}
	return next
}

// RecoveryPlan is what a recovery would do, or did.
type RecoveryPlan struct {
	Site string `json:"site"`
	// From and Generation are the generations before and after.
	From       string `json:"from"`
	Generation string `json:"generation"`
	// Node is the one that decides afterwards; Source is whose copy of the decisions
	// is taken, up to Index.
	Node   string         `json:"node"`
	Source string         `json:"source"`
	Index  uint64         `json:"index"`
	Copies []RecoveryCopy `json:"copies"`
	// Masters go on, Lost are given up.
	Masters    []string `json:"masters"`
	Lost       []string `json:"lost"`
	Kubernetes string   `json:"kubernetes"`
	Loses      []string `json:"loses"`
	// Refused says what speaks against it; empty when nothing does.
	Refused []string `json:"refused"`
	Done    bool     `json:"done"`
}

// RecoveryCopy is one copy that was found.
type RecoveryCopy struct {
	Node       string `json:"node"`
	ID         string `json:"id"`
	Generation string `json:"generation"`
	Index      uint64 `json:"index"`
	Voter      bool   `json:"voter"`
}

// kind is how a copy is called in a table.
func (c RecoveryCopy) kind() string {
	if c.Voter {
		return "voter"
	}
	return "follower"
}
