package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p/ledger"
)

// conflicts are the other sites with this node's token that it sees, a sentence
// each (history S28), or two generations of its own site of which neither ends
// the other. Neither side changes: an operator has to end one.
func (a *Agent) conflicts() []string {
	if !a.running() {
		return nil
	}
	a.mu.Lock()
	l := a.ledger
	a.mu.Unlock()
	seen := map[ledger.Site][]string{}
	for _, p := range a.host.Peers() {
		if p.Greeting.Site != "" {
			s := ledger.Site{ID: p.Greeting.Site, Generation: p.Greeting.Generation}
			seen[s] = append(seen[s], a.nameOf(p.ID))
		}
	}
	if l == nil {
		return newcomerConflict(seen)
	}
	return memberConflicts(l.Site(), seen)
}

// newcomerConflict is what a node without a site says of more than one.
func newcomerConflict(seen map[ledger.Site][]string) []string {
	var all []ledger.Site
	for s := range seen {
		all = append(all, s)
	}
	current := currentSites(all)
	if len(current) < 2 {
		return nil
	}
	var sites []string
	for _, s := range current {
		slices.Sort(seen[s])
		sites = append(sites, spellSite(s)+" of "+enumerate(seen[s]))
	}
	slices.Sort(sites)
	return []string{fmt.Sprintf("SiteConflict: %d sites with this token are in sight (%s), and this node joins none of them: end all but one", len(sites), enumerate(sites))}
}

func memberConflicts(own ledger.Site, seen map[ledger.Site][]string) []string {
	var all []string
	for s, nodes := range seen {
		slices.Sort(nodes)
		switch {
		case s.ID != own.ID:
			all = append(all, fmt.Sprintf("SiteConflict: %s belong to %s with the same token; this node stays in %s, and newcomers join neither: end one of the two (docs/troubleshooting.md)",
				enumerate(nodes), spellSite(s), spellSite(own)))
		case s != own && !ledger.Supersedes(s.Generation, own.Generation) && !ledger.Supersedes(own.Generation, s.Generation):
			all = append(all, fmt.Sprintf("SiteConflict: the site was recovered twice, and %s belong to generation %s beside this node's %s: reset the nodes of one of the two",
				enumerate(nodes), ledger.SpellGeneration(s.Generation), ledger.SpellGeneration(own.Generation)))
		}
	}
	slices.Sort(all)
	return all
}

func spellSite(s ledger.Site) string {
	if s.Generation == 0 {
		return "site " + s.ID
	}
	return "site " + s.ID + " generation " + ledger.SpellGeneration(s.Generation)
}

// admit refuses newcomers while another site with this token is in sight: one may
// ask before it sees both, and is to join neither.
func (a *Agent) admit(peer.ID, ledger.EnrolmentRequest) error {
	if conflicts := a.conflicts(); len(conflicts) > 0 {
		return errors.New(conflicts[0])
	}
	return nil
}

// watchConflicts is a member's reconciler.
func (a *Agent) watchConflicts(context.Context) ([]string, error) {
	now := a.conflicts()
	a.reportConflicts(now)
	return now, nil
}

// reportConflicts says what is new among them, once, in log and events.
func (a *Agent) reportConflicts(now []string) {
	a.mu.Lock()
	before := a.inConflict
	a.inConflict = now
	a.mu.Unlock()
	for _, sentence := range now {
		if !slices.Contains(before, sentence) {
			a.log.Error("site conflict", LogReason, sentence)
			a.events.add("conflict", "SiteConflict", sentence)
		}
	}
	if len(before) > 0 && len(now) == 0 {
		a.log.Info("site conflict is over")
		a.events.add("conflict", "over", "")
	}
}
