package ledger

import (
	"errors"
	"fmt"
	"slices"
)

// Abandonment is what a founder that is bound to an attempt without an outcome
// would give up.
type Abandonment struct {
	Site     string   `json:"site"`
	Proposer string   `json:"proposer"`
	Founders []string `json:"founders"`
	Masters  []string `json:"masters"`
	// Away are the founding masters that are not seen, without whom the attempt can
	// neither be finished nor given up.
	Away []string `json:"away"`
}

var (
	// ErrNothingPromised: this node is bound to no founding.
	ErrNothingPromised = errors.New("this node has promised itself to no site that is being founded")
	// ErrFoundingGoesOn: the founding is brought to an end without an operator.
	ErrFoundingGoesOn = errors.New("the founding comes to its end by itself")
)

// Blocked says which attempt this node is bound to and cannot leave by itself:
// ErrNothingPromised or ErrFoundingGoesOn when there is none.
func (f *Founding) Blocked() (Abandonment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machine.blocked()
}

// Abandon takes back this node's promise to that attempt, whose masters are gone.
// It is refused from then on, whatever comes of it: if its masters founded the
// site all the same, or return and do, there are two sites. Errors as Blocked's,
// or why the disk did not take it.
func (f *Founding) Abandon(site string) error {
	var refused error
	err := f.carryOut(func() { refused = f.machine.abandon(site) })
	if err != nil {
		f.stop(err)
	}
	return errors.Join(refused, err)
}

func (m *machine) blocked() (Abandonment, error) {
	a := m.bound()
	if a == nil || m.state.Founded != nil {
		return Abandonment{}, ErrNothingPromised
	}
	g := a.Genesis
	b := Abandonment{Site: g.Site, Proposer: g.Proposer, Founders: g.Founders, Masters: g.Masters, Away: []string{}}
	for _, id := range g.Masters {
		if !m.alive[id] {
			b.Away = append(b.Away, id)
		}
	}
	if seen := len(g.Masters) - len(b.Away); seen >= g.Quorum() {
		return b, fmt.Errorf("%d of %d founding masters of site %s are seen, who finish it or give it up: %w", seen, len(g.Masters), g.Site, ErrFoundingGoesOn)
	}
	return b, nil
}

func (m *machine) abandon(site string) error {
	b, err := m.blocked()
	if err != nil {
		return err
	}
	if b.Site != site {
		return fmt.Errorf("this node is bound to site %s by now, not to %s: %w", b.Site, site, ErrNothingPromised)
	}
	delete(m.attempts, site)
	m.state.Abandoned = append(slices.Clip(m.state.Abandoned), site)
	m.patience = 0
	m.persist()
	m.settle()
	return nil
}

// abandoned says whether an operator took this node out of an attempt. It has no
// voice in it any more, and is no founder of what comes of it.
func (m *machine) abandoned(site string) bool { return slices.Contains(m.state.Abandoned, site) }

// refuseAbandoned answers whoever still counts on this node.
func (m *machine) refuseAbandoned(from string, msg genesisMessage) bool {
	if !m.abandoned(msg.Site) {
		return false
	}
	if msg.Kind == kindAsk && from != m.cfg.Self {
		m.send(from, genesisMessage{Kind: kindRefused, Site: msg.Site, Reason: "was told by an operator to abandon this attempt"})
	}
	return true
}
