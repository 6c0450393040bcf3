package roles

import (
	"fmt"
	"net/netip"
)

// Decision is a change to the state of a site. Each says, under Requires, what must still hold when it commits; one whose
// requirement fails changes nothing, which makes a second, a late or a stale proposal harmless. A ledger with
// compare-and-set gets all of them at once when the transactions that carry plans compare and rewrite one common key (the
// address counter serves): then only a plan made from the present state commits.
type Decision interface {
	fmt.Stringer
	isDecision()
}

// AssignAddress gives a member its mesh address, for good.
// Requires: the member has none, and NextAddress has not reached Counter.
type AssignAddress struct {
	ID   NodeID
	Addr netip.Addr
	// Counter is what NextAddress becomes, in the same transaction.
	Counter uint64
}

// AssignName gives a member its name, for good.
// Requires: the member has none, and no member that was not removed has this one.
type AssignName struct {
	ID   NodeID
	Name string
}

// AssignRole gives a member its role. The only role that ever changes is a master's, between master/clusterinit and
// master/ha, when the epoch that it should have initialised is superseded.
// Requires: the member's role is still From; for a new master, that there are fewer than asked; for master/clusterinit, that
// nobody holds it and that the current epoch, if there is one, is the member's to initialise.
type AssignRole struct {
	ID     NodeID
	From   Role
	Role   Role
	Reason string
}

// StartEpoch lets Init initialise a Kubernetes cluster. Supersedes is the epoch that is given up, 0 for the first.
// Requires: the current epoch is Supersedes, has no CA hash, and N follows it.
type StartEpoch struct {
	N          int
	Init       NodeID
	Supersedes int
}

// MarkFormed records that all masters of epoch N were Ready together.
// Requires: the current epoch is N and has a CA hash.
type MarkFormed struct{ N int }

func (AssignAddress) isDecision() {}
func (AssignName) isDecision()    {}
func (AssignRole) isDecision()    {}
func (StartEpoch) isDecision()    {}
func (MarkFormed) isDecision()    {}

func (d AssignAddress) String() string { return spell(d) }
func (d AssignName) String() string    { return spell(d) }
func (d AssignRole) String() string    { return spell(d) }
func (d StartEpoch) String() string    { return spell(d) }
func (d MarkFormed) String() string    { return spell(d) }

func spell(d Decision) string {
	id, what := about(d)
	if id == "" {
		return what
	}
	return fmt.Sprintf("%s: %s", shown("", id), what)
}

// about returns whom a decision concerns, "" for the site, and what it gives.
func about(d Decision) (NodeID, string) {
	switch d := d.(type) {
	case AssignAddress:
		return d.ID, "address " + d.Addr.String()
	case AssignName:
		return d.ID, "name " + d.Name
	case AssignRole:
		if d.From != None {
			return d.ID, fmt.Sprintf("role %s, was %s (%s)", d.Role, d.From, d.Reason)
		}
		return d.ID, fmt.Sprintf("role %s (%s)", d.Role, d.Reason)
	case StartEpoch:
		if d.Supersedes > 0 {
			return d.Init, fmt.Sprintf("epoch %d to initialise, in place of epoch %d", d.N, d.Supersedes)
		}
		return d.Init, fmt.Sprintf("epoch %d to initialise", d.N)
	case MarkFormed:
		return "", fmt.Sprintf("control plane of epoch %d formed", d.N)
	default:
		return aboutReplacement(d)
	}
}

// Apply returns the state after a decision; the given one is not changed. A decision about somebody who is not a member, or
// was removed, changes nothing either.
func Apply(s State, d Decision) State {
	next := s.clone()
	next.apply(d)
	return next
}

// ApplyAll is [Apply] for one decision after another, with one copy for all of them.
func ApplyAll(s State, decisions ...Decision) State {
	next := s.clone()
	for _, d := range decisions {
		next.apply(d)
	}
	return next
}

func (s *State) apply(d Decision) {
	switch d := d.(type) {
	case AssignAddress:
		if _, has := s.Addresses[d.ID]; s.decidable(d.ID) && !has && d.Counter > s.NextAddress {
			s.Addresses[d.ID] = d.Addr
			s.NextAddress = d.Counter
		}
	case AssignName:
		if _, has := s.Names[d.ID]; s.decidable(d.ID) && !has && !s.nameTaken(d.Name) {
			s.Names[d.ID] = d.Name
		}
	case AssignRole:
		if s.decidable(d.ID) && s.Roles[d.ID] == d.From && s.permits(d) {
			s.Roles[d.ID] = d.Role
		}
	case StartEpoch:
		current := 0
		if s.Epoch != nil {
			current = s.Epoch.N
		}
		if s.caHash() == "" && current == d.Supersedes && d.N == current+1 {
			s.Epoch = &Epoch{N: d.N, Init: d.Init}
		}
	case MarkFormed:
		if s.caHash() != "" && s.Epoch.N == d.N {
			s.Epoch.FormedMasters = true
		}
	default:
		s.applyReplacement(d)
	}
}

func (s State) decidable(id NodeID) bool {
	m, known := s.member(id)
	return known && !m.Removed
}

// permits checks what AssignRole requires beside From.
func (s State) permits(d AssignRole) bool {
	masters, inits := 0, 0
	for _, m := range s.live() {
		if s.Roles[m.ID].IsMaster() {
			masters++
		}
		if s.Roles[m.ID] == MasterInit {
			inits++
		}
	}
	initialises := s.Epoch == nil || s.Epoch.Init == d.ID
	switch {
	case d.From == None && d.Role.IsMaster() && masters >= s.Policy.Masters():
		return false
	case d.Role == MasterInit:
		return (d.From == None || d.From == MasterHA) && initialises && inits == 0
	case d.From == MasterInit:
		return d.Role == MasterHA && !initialises
	default:
		return d.From == None
	}
}
