package ledger

import (
	"fmt"
	"slices"
	"strings"
)

// Waiting says in sentences what this node waits for before there is a site:
// whyNot is why it has nothing to propose itself. Empty means founded, or that
// the next step is being taken.
func (m *machine) Waiting(whyNot []string) []string {
	if m.state.Founded != nil || m.cfg.Witness {
		return nil
	}
	if a := m.bound(); a != nil {
		return m.waitingFor(a)
	}
	if m.elsewhere != "" {
		return []string{fmt.Sprintf("site %s was founded without this node; waiting to be let in", m.elsewhere)}
	}
	return slices.Clone(whyNot)
}

func (m *machine) waitingFor(a *attempt) []string {
	g := a.Genesis
	var out []string
	for _, id := range g.Founders {
		if _, ok := a.promises[id]; ok {
			continue
		}
		switch why := a.refusals[id]; {
		case !m.alive[id]:
			out = append(out, fmt.Sprintf("founder %s has not promised and is not seen; the attempt is given up if it stays away", id))
		case why != "":
			out = append(out, fmt.Sprintf("founder %s refuses to promise: it %s", id, why))
		default:
			out = append(out, fmt.Sprintf("waiting for the promise of founder %s", id))
		}
	}
	var away []string
	for _, id := range g.Masters {
		if !m.alive[id] {
			away = append(away, id)
		}
	}
	switch {
	case len(g.Masters)-len(away) < g.Quorum():
		out = append(out, fmt.Sprintf(
			"the founding of site %s can neither be finished nor given up without founding master %s, which is away: "+
				"bring it back, or, if it never returns, run `muster site abandon` on the other founders (%d of %d founding masters are seen, %d needed)",
			g.Site, strings.Join(away, ", "), len(g.Masters)-len(away), len(g.Masters), g.Quorum()))
	case !m.alive[g.Proposer]:
		out = append(out, fmt.Sprintf("proposer %s is away; finishing or giving up its attempt", g.Proposer))
	case len(out) == 0:
		out = append(out, fmt.Sprintf("waiting for the votes of the founding masters on site %s", g.Site))
	}
	return out
}
