package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

const (
	// settleFounding is how long the set of founders must stay the same before
	// they are proposed: machines that were switched on together should found
	// the site together.
	settleFounding = 1500 * time.Millisecond
	// settleFoundingMax ends the waiting for ever new arrivals.
	settleFoundingMax = 6 * time.Second
	// enrolRetry paces a newcomer whose site cannot let it in right now.
	enrolRetry = 2 * time.Second
	// foundingLabel names the gossip of nodes that have no site yet.
	foundingLabel = "founding"
)

// newcomer is this node's life before it belongs to a site.
type newcomer struct {
	agent      *Agent
	membership *p2p.Membership

	mu    sync.Mutex
	view  string
	since time.Time
	first time.Time
	enrol string
}

// becomeMember founds a site with others or is let into one that exists, and
// returns its ledger.
func (a *Agent) becomeMember(ctx context.Context) (*ledger.Ledger, error) {
	a.enter(PhaseSearching, "")
	n := &newcomer{agent: a}
	membership, err := p2p.JoinMembership(p2p.MembershipConfig{
		Host: a.host, Label: foundingLabel, Access: p2p.AccessAdmitted, Facts: a.facts, Candidates: n.candidates, Log: a.log,
	})
	if err != nil {
		return nil, err
	}
	n.membership = membership
	a.mu.Lock()
	a.membership = membership
	a.mu.Unlock()
	if err := n.openFounding(); err != nil {
		return nil, err
	}
	// The membership stays until the node has another one to be seen in.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.forward(ctx, membership.Changed)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	a.loop.start(ctx, &waiting, reconciler{name: "founding", every: time.Second, run: n.explain})

	for {
		changed := a.changed.Changed()
		site, one := n.site()
		if one && n.free() {
			l, err := n.join(ctx, site)
			if err == nil {
				return l, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			n.setEnrol(err.Error())
			a.log.Info("not let in yet", LogSite, site.ID, LogError, err, "retry", enrolRetry)
			sleep(ctx, enrolRetry, nil)
			continue
		}
		cert, err := n.found(ctx, changed)
		if err != nil {
			return nil, err
		}
		if cert != nil {
			a.enter(PhaseFounding, "")
			a.events.add("founding", "site "+cert.Genesis.Site, fmt.Sprintf("%d founders, %d masters", len(cert.Genesis.Founders), len(cert.Genesis.Masters)))
			return ledger.Found(a.ledgerConfig(), *cert)
		}
	}
}

// found takes part in a founding until it is complete, or until a site is seen
// that this node may join instead (nil).
func (n *newcomer) found(ctx context.Context, changed <-chan struct{}) (*ledger.Certificate, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		cert ledger.Certificate
		err  error
	}
	done := make(chan outcome, 1)
	founding := n.agent.currentFounding()
	go func() {
		cert, err := founding.Run(ctx)
		done <- outcome{cert, err}
	}()
	for {
		select {
		case o := <-done:
			if o.err != nil {
				return nil, o.err
			}
			return &o.cert, nil
		case <-changed:
		}
		changed = n.agent.changed.Changed()
		if _, one := n.site(); one && n.free() {
			cancel()
			if o := <-done; o.err == nil {
				return &o.cert, nil
			}
			return nil, nil
		}
	}
}

// propose is what a founder would found right now. It is asked by the founding
// whenever there is none under way.
func (n *newcomer) propose() (*ledger.Genesis, []string) {
	if sites := n.sites(); len(sites) > 0 {
		return nil, nil
	}
	candidates, unknown := n.candidatesKnown()
	plan, why := roles.PlanFounding(roles.NodeID(n.agent.identity.ID().String()), candidates)
	if len(plan.Founders) == 0 {
		n.settle("")
		return nil, append(why, unknown...)
	}
	if remaining := n.settle(fmt.Sprint(plan.Founders, plan.Masters)); remaining > 0 {
		return nil, []string{fmt.Sprintf("%d nodes are here; waiting %s for more before they found the site", len(plan.Founders), remaining.Round(100*time.Millisecond))}
	}
	policy, err := json.Marshal(plan.Policy)
	if err != nil {
		return nil, []string{err.Error()}
	}
	return &ledger.Genesis{
		Version: ledger.GenesisVersion, Site: ledger.NewSiteID(),
		Founders: ids(plan.Founders), Masters: ids(plan.Masters),
		Policy: policy, Range: plan.Range.String(), Proposer: n.agent.identity.ID().String(),
	}, nil
}

// settle returns how long the view must still stay as it is.
func (n *newcomer) settle(view string) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	switch {
	case view == "":
		n.view, n.first = "", time.Time{}
		return settleFounding
	case view != n.view:
		n.view, n.since = view, now
		if n.first.IsZero() {
			n.first = now
		}
	}
	remaining := settleFounding - now.Sub(n.since)
	return min(remaining, settleFoundingMax-now.Sub(n.first))
}

// candidatesKnown returns this node and everybody alive without a site, as far
// as their facts have come.
func (n *newcomer) candidatesKnown() (known []roles.Candidate, unknown []string) {
	conflicts := n.agent.facts.Conflicts()
	for _, m := range n.membership.Members() {
		if m.Status != p2p.MemberAlive && m.ID != n.agent.identity.ID() {
			continue
		}
		f, ok := n.agent.factsOf(m.ID)
		if !ok {
			unknown = append(unknown, fmt.Sprintf("node %s has not told its facts yet", short(m.ID)))
			continue
		}
		known = append(known, roles.Candidate{
			ID: roles.NodeID(m.ID.String()), Hostname: f.Hostname, StaticRole: f.StaticRole, JoinOnly: f.JoinOnly,
			LANs: f.LANs, Policy: f.Policy, Conflict: f.Conflict || slices.Contains(conflicts, m.ID),
		})
	}
	return known, unknown
}

// sites returns the sites that connected peers say they belong to.
func (n *newcomer) sites() []ledger.Site {
	var all []ledger.Site
	for _, p := range n.agent.host.Peers() {
		if p.Greeting.Site == "" {
			continue
		}
		s := ledger.Site{ID: p.Greeting.Site, Generation: p.Greeting.Generation}
		all = append(all, s)
	}
	return currentSites(all)
}

// currentSites leaves out repetitions and what was superseded. Two generations of
// one number are left as two: neither counts more than the other.
func currentSites(all []ledger.Site) []ledger.Site {
	var current []ledger.Site
	for i, s := range all {
		past := slices.ContainsFunc(all, func(o ledger.Site) bool { return o.ID == s.ID && ledger.Supersedes(o.Generation, s.Generation) })
		if !past && !slices.Contains(all[:i], s) {
			current = append(current, s)
		}
	}
	return current
}

// site returns the one site in sight; with two this node joins neither.
func (n *newcomer) site() (ledger.Site, bool) {
	all := n.sites()
	if len(all) != 1 {
		return ledger.Site{}, false
	}
	return all[0], true
}

// openFounding takes part in foundings from now on, where the disk says that
// this node left off.
func (n *newcomer) openFounding() error {
	return n.agent.setFounding(ledger.FoundingConfig{Alive: n.alive, Propose: n.propose})
}

// join asks the members in sight, one after another, to let this node in. While
// it asks it promises nothing to anybody else.
func (n *newcomer) join(ctx context.Context, site ledger.Site) (_ *ledger.Ledger, err error) {
	a := n.agent
	a.currentFounding().Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, n.openFounding())
		}
	}()
	if !n.free() {
		return nil, errors.New("this node has just promised itself to a site that is being founded")
	}
	a.enter(PhaseEnrolling, "asking site "+site.ID)
	var all error
	for _, p := range n.agent.host.Peers() {
		if p.Greeting.Site != site.ID || p.Greeting.Generation != site.Generation {
			continue
		}
		joined, err := ledger.Enrol(ctx, n.agent.host, p.ID, n.agent.identity, n.agent.enrolRequest())
		if err == nil {
			n.agent.events.add("enrolled", "site "+joined.ID, "through "+short(p.ID))
			return ledger.Join(n.agent.ledgerConfig(), joined)
		}
		all = errors.Join(all, fmt.Errorf("asked %s to let this node in: %w", short(p.ID), err))
	}
	return nil, all
}

// free tells whether this node may join a site: it is neither bound to a
// founding without an outcome, nor one of the founders of a site whose ledger it
// has yet to start. A founding master that enrolled instead would never vote.
func (n *newcomer) free() bool { return !n.agent.promised() && !n.agent.founder() }

func (n *newcomer) setEnrol(reason string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.enrol, _, _ = strings.Cut(reason, "\n")
}

// explain keeps the phase true and says what a newcomer waits for.
func (n *newcomer) explain(context.Context) ([]string, error) {
	sites := n.sites()
	if len(sites) < 2 {
		n.agent.reportConflicts(nil)
	}
	switch {
	case len(sites) > 1:
		why := n.agent.conflicts()
		n.agent.reportConflicts(why)
		n.agent.enter(PhaseBlocked, strings.Join(why, " "))
		return why, nil
	case len(sites) == 1 && n.free():
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.enrol == "" {
			return []string{"waiting for site " + sites[0].ID + " to let this node in"}, nil
		}
		return []string{n.enrol}, nil
	}
	why := n.agent.currentFounding().Waiting()
	if len(why) > 0 && len(n.agent.host.Peers()) == 0 && len(n.agent.refusedBy()) == 0 {
		why = append(why, n.agent.alone())
	}
	if n.agent.promised() || n.agent.founder() {
		n.agent.enter(PhaseFounding, "")
	} else {
		n.agent.enter(PhaseSearching, "")
	}
	return why, nil
}

// candidates are the peers to gossip with: all who have no site either.
func (n *newcomer) candidates() []peer.ID {
	var all []peer.ID
	for _, p := range n.agent.host.Peers() {
		if p.Greeting.Site == "" {
			all = append(all, p.ID)
		}
	}
	return all
}

// alive is who a founding may count on: the nodes without a site, and the
// members in sight, who have left the founding's gossip. A founder that was away
// when its site was founded hears the outcome from those.
func (n *newcomer) alive() []peer.ID {
	var all []peer.ID
	for _, m := range n.membership.Members() {
		if m.Status == p2p.MemberAlive {
			all = append(all, m.ID)
		}
	}
	for _, p := range n.agent.host.Peers() {
		if p.Greeting.Site != "" && !slices.Contains(all, p.ID) {
			all = append(all, p.ID)
		}
	}
	return all
}

func ids(nodes []roles.NodeID) []string {
	all := make([]string, len(nodes))
	for i, n := range nodes {
		all[i] = string(n)
	}
	return all
}

// short is enough of a peer ID for a person.
func short(id peer.ID) string {
	s := id.String()
	return s[max(0, len(s)-8):]
}
