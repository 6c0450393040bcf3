package roles

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallSite has the masters a, b and c in epoch 1, and the worker w.
func smallSite() State {
	p := DefaultPolicy()
	p.HA, p.AdditionalMasters, p.Range = true, 2, netip.MustParsePrefix("10.1.0.0/16")
	s := State{Policy: p, Masters: []NodeID{"a", "b", "c"}}
	for _, id := range []NodeID{"a", "b", "c", "w"} {
		s.Members = append(s.Members, Member{ID: id, Hostname: string(id), Joined: 1})
	}
	for _, d := range Next(Input{State: s, Self: "a", Health: map[NodeID]Health{"w": {Alive: true}}}).Decisions {
		s = Apply(s, d)
	}
	return s
}

func TestADecisionWhoseRequirementFailsChangesNothing(t *testing.T) {
	withCA := func(s *State) { s.Epoch.CAHash = "c0ffee" }
	newcomer := func(s *State) { s.Members = append(s.Members, Member{ID: "n", Joined: 2}) }
	for name, test := range map[string]struct {
		prepare  func(*State)
		decision Decision
	}{
		"a second address":                {nil, AssignAddress{ID: "a", Addr: netip.MustParseAddr("10.1.0.9"), Counter: 10}},
		"an address given meanwhile":      {newcomer, AssignAddress{ID: "n", Addr: netip.MustParseAddr("10.1.0.4"), Counter: 5}},
		"an address for a stranger":       {nil, AssignAddress{ID: "n", Addr: netip.MustParseAddr("10.1.0.5"), Counter: 6}},
		"an address for a removed member": {func(s *State) { newcomer(s); s.Members[4].Removed = true }, AssignAddress{ID: "n", Addr: netip.MustParseAddr("10.1.0.5"), Counter: 6}},
		"a second name":                   {nil, AssignName{ID: "a", Name: "other"}},
		"a name given meanwhile":          {newcomer, AssignName{ID: "n", Name: "a"}},
		"a role changed meanwhile":        {nil, AssignRole{ID: "w", From: None, Role: MasterHA}},
		"a worker made a master":          {nil, AssignRole{ID: "w", From: Worker, Role: MasterHA}},
		"a master made a worker":          {nil, AssignRole{ID: "b", From: MasterHA, Role: Worker}},
		"one master too many":             {newcomer, AssignRole{ID: "n", Role: MasterHA}},
		"a second init master":            {nil, AssignRole{ID: "b", From: MasterHA, Role: MasterInit}},
		"the init master moved for fun":   {nil, AssignRole{ID: "a", From: MasterInit, Role: MasterHA}},
		"the init role ahead of its time": {func(s *State) { s.Epoch.Init = "b" }, AssignRole{ID: "b", From: MasterHA, Role: MasterInit}},
		"the same epoch twice":            {nil, StartEpoch{N: 1, Init: "b"}},
		"an epoch that is not the next":   {nil, StartEpoch{N: 3, Init: "b", Supersedes: 1}},
		"an epoch with a CA hash":         {withCA, StartEpoch{N: 2, Init: "b", Supersedes: 1}},
		"formed before the CA hash":       {nil, MarkFormed{N: 1}},
		"another epoch formed":            {withCA, MarkFormed{N: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			before := smallSite()
			if test.prepare != nil {
				test.prepare(&before)
			}
			require.Equal(t, before, Apply(before, test.decision))
		})
	}
}

func TestApplyLeavesItsArgumentAlone(t *testing.T) {
	before := smallSite()
	before.Epoch.CAHash = "c0ffee"
	before.Members = append(before.Members, Member{ID: "n", Joined: 2})
	want := before.clone()
	Apply(before, AssignAddress{ID: "n", Addr: netip.MustParseAddr("10.1.0.5"), Counter: 6})
	Apply(before, AssignName{ID: "n", Name: "n"})
	Apply(before, AssignRole{ID: "n", Role: Worker})
	Apply(before, MarkFormed{N: 1})
	require.Equal(t, want, before)
}
