package roles

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func reasons(plan Plan, id NodeID) []string {
	var sentences []string
	for _, w := range plan.Waiting {
		if w.ID == id {
			sentences = append(sentences, w.Reason)
		}
	}
	return sentences
}

func alive(ids ...NodeID) map[NodeID]Health {
	health := make(map[NodeID]Health)
	for _, id := range ids {
		health[id] = Health{Alive: true}
	}
	return health
}

func TestEveryRefusalHasItsReason(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(*Input)
		id      NodeID
		says    string
	}{
		"no range": {func(in *Input) { in.State.Policy.Range = netip.Prefix{} }, "", "the site's policy has no address range"},
		"impossible policy": {
			func(in *Input) { in.State.Policy.AdditionalMasters = 1 }, "",
			"the site's policy is impossible: ha.master_nodes is 1: it counts the masters beside the first, so there would be 2, and an even number survives no more failures than 1 do; use 0, 2 or 4",
		},
		"range exhausted": {
			func(in *Input) { in.State.NextAddress = 65535 }, "n",
			"no address: address 65535 of 10.1.0.0/16: address range exhausted (65534 addresses, never reused)",
		},
		"never heard": {
			func(in *Input) { delete(in.Health, "n") }, "n", "nothing was heard of it yet, so its networks are not known",
		},
		"facts not come yet": {
			func(in *Input) { in.Health["n"] = Health{Alive: true, Unheard: true} }, "n",
			"nothing was heard of it yet, so its networks are not known",
		},
		"key held twice": {
			func(in *Input) { in.Health["n"] = Health{Alive: true, Conflict: true} }, "n",
			"two live machines hold its key: end one of them, or give one a new identity",
		},
		"network moved into the mesh range": {
			func(in *Input) {
				in.Health["w"] = Health{Alive: true, LANs: []netip.Prefix{netip.MustParsePrefix("10.1.9.0/24")}}
			}, "w",
			"its network 10.1.9.0/24 now overlaps the mesh range 10.1.0.0/16: addresses in both are unreachable for it",
		},
		"unknown static role": {
			func(in *Input) { in.State.Members[4].StaticRole = "boss" }, "n", `static role "boss" refused: there are master and worker`,
		},
		"master too many": {
			func(in *Input) { in.State.Members[4].StaticRole = Master }, "n",
			"static role master refused: the site has its 3 masters (a, b and c)",
		},
		"master before the cluster": {
			func(in *Input) { in.State.Members[4].StaticRole = Master; in.State.Members[2].Removed = true }, "n",
			"static role master: a place is open, and is given once the cluster is initialised",
		},
		"worker told to be a master": {
			func(in *Input) { in.State.Members[3].StaticRole = Master }, "w",
			"static role master refused: it is a worker already; reset the node",
		},
		"master told to be a worker": {
			func(in *Input) { in.State.Members[1].StaticRole = Worker }, "b",
			"static role worker refused: it is master/ha and holds cluster data; reset the node",
		},
		"founding master enrolled as a worker": {
			func(in *Input) { in.State.Members[1].StaticRole = Worker; delete(in.State.Roles, "b") }, "b",
			"static role worker refused: it founded the site as a master",
		},
		"fewer masters asked than founded": {
			func(in *Input) { in.State.Policy.AdditionalMasters = 0; delete(in.State.Roles, "b") }, "b",
			"it founded the site as a master, but only 1 master asked",
		},
		"HA switched off afterwards": {
			func(in *Input) { in.State.Policy.HA, in.State.Policy.AdditionalMasters = false, 0 }, "b",
			"it is master/ha and should be master (the only master), but no role changes while a node holds cluster data: reset the node",
		},
		"another cluster": {
			func(in *Input) {
				in.State.Epoch.CAHash = "c0ffee"
				in.Health["b"] = Health{Alive: true, K8sReady: true, CAHash: "badbad"}
			}, "b",
			"it runs a Kubernetes cluster with another CA than the site's: reset the node; the control plane is forming, 0 of 3 masters are Ready",
		},
		"a master never heard": {
			func(in *Input) { in.State.Epoch.CAHash = "c0ffee"; delete(in.Health, "b") }, "b",
			"nothing was heard of it yet; the control plane is forming, 0 of 3 masters are Ready",
		},
		"a master's key held twice": {
			func(in *Input) {
				in.State.Epoch.CAHash = "c0ffee"
				in.Health["b"] = Health{Alive: true, Conflict: true}
			}, "b",
			"two live machines hold its key; the control plane is forming, 0 of 3 masters are Ready",
		},
		"everybody who could take over is dead": {
			func(in *Input) {
				in.Self = "b"
				in.State.Masters = []NodeID{"a"}
				in.State.Members[1].Removed, in.State.Members[2].Removed = true, true
				in.Health["a"] = Health{DeadFor: time.Hour}
			}, "a",
			"it initialises the cluster and is gone, and no other master is alive to take over",
		},
		"the sole master dead before its first commit": {
			func(in *Input) {
				in.Self = "w"
				in.State.Policy.HA, in.State.Policy.AdditionalMasters = false, 0
				in.Health["a"] = Health{DeadFor: time.Hour}
			}, "a",
			"the only master, which initialises the cluster, is gone: nothing takes its place by itself; power it on, or found the site anew",
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{State: smallSite(), Health: alive("a", "b", "c", "w", "n"), Self: "a", Now: time.Hour}
			in.State.Members = append(in.State.Members, Member{ID: "n", Hostname: "n", Joined: 2})
			test.prepare(&in)
			plan := Next(in)
			require.Contains(t, reasons(plan, test.id), test.says)
			if test.id != "" {
				require.Contains(t, Explain(in, test.id), test.says)
			}
		})
	}
}

func TestNobodyInitialisesWhileEveryMasterIsInConflict(t *testing.T) {
	s := smallSite()
	s.Epoch, s.Roles = nil, nil
	health := alive("w")
	for _, id := range s.Masters {
		health[id] = Health{Alive: true, Conflict: true}
	}
	plan := Next(Input{State: s, Health: health, Self: "a"})
	require.Equal(t, []Decision{AssignRole{ID: "w", Role: Worker, Reason: "masters are chosen at genesis"}}, plan.Decisions)
	require.Equal(t, []string{"no master can initialise the cluster now, of a, b and c"}, reasons(plan, ""))
}

// TestACounterThatFellBehindGivesNoAddressTwice: a ledger recovered from an old copy may know of addresses that its counter
// has not reached.
func TestACounterThatFellBehindGivesNoAddressTwice(t *testing.T) {
	s := smallSite()
	s.NextAddress = 2
	s.Members = append(s.Members, Member{ID: "n", Hostname: "n", Joined: 2})
	plan := Next(Input{State: s, Health: alive("n"), Self: "a"})
	require.Equal(t, AssignAddress{ID: "n", Addr: netip.MustParseAddr("10.1.0.5"), Counter: 6}, plan.Decisions[0])
}

func TestAnObservationOlderThanTheOfficeCondemnsNobody(t *testing.T) {
	in := Input{State: smallSite(), Health: alive("b", "c", "w"), Self: "b", Now: FormationGrace - time.Second}
	in.Health["a"] = Health{DeadFor: time.Hour}
	require.Empty(t, Next(in).Decisions)
	in.Now = FormationGrace
	require.Equal(t, StartEpoch{N: 2, Init: "b", Supersedes: 1}, Next(in).Decisions[0])
}

func TestARemovedInitMasterIsSupersededAtOnce(t *testing.T) {
	s := smallSite()
	s.Members[0].Removed = true
	plan := Next(Input{State: s, Health: alive("b", "c", "w"), Self: "c"})
	require.Equal(t, []Decision{
		StartEpoch{N: 2, Init: "b", Supersedes: 1},
		AssignRole{ID: "b", From: MasterHA, Role: MasterInit, Reason: "initialises the cluster"},
	}, plan.Decisions)
}

func TestOnlyALiveMasterTakesOver(t *testing.T) {
	in := Input{State: smallSite(), Health: alive("c", "w"), Self: "c", Now: time.Hour}
	in.Health["a"], in.Health["b"] = Health{DeadFor: time.Hour}, Health{DeadFor: time.Second}
	require.Equal(t, StartEpoch{N: 2, Init: "c", Supersedes: 1}, Next(in).Decisions[0])
}

func TestAStaticWorkerNeverInitialises(t *testing.T) {
	s := smallSite()
	s.Epoch, s.Roles = nil, nil
	s.Members[0].StaticRole = Worker
	plan := Next(Input{State: s, Health: alive("a", "b", "c", "w"), Self: "a"})
	require.Equal(t, StartEpoch{N: 1, Init: "b"}, plan.Decisions[0])
}

func TestMayStartNamesEveryMissingDecision(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(*State)
		id      NodeID
		says    string
	}{
		"stranger":      {nil, "x", "it is not a member of the site"},
		"removed":       {func(s *State) { s.Members[3].Removed = true }, "w", "it was removed from the site"},
		"no address":    {func(s *State) { delete(s.Addresses, "w") }, "w", "it has no address yet"},
		"no name":       {func(s *State) { delete(s.Names, "w") }, "w", "it has no name yet"},
		"no role":       {func(s *State) { delete(s.Roles, "w") }, "w", "it has no role yet"},
		"no epoch":      {func(s *State) { s.Epoch = nil }, "a", "no master was told to initialise the cluster yet"},
		"no Kubernetes": {func(s *State) { s.Policy.Kubernetes = false }, "a", "Kubernetes is switched off (k3s.enabled: false)"},
		"no CA hash":    {nil, "w", "the cluster is not initialised: a has not committed its CA hash (epoch 1)"},
		"init master":   {nil, "a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := smallSite()
			if test.prepare != nil {
				test.prepare(&s)
			}
			may, why := MayStart(s, test.id)
			require.Equal(t, test.says, why)
			require.Equal(t, test.says == "", may)
			if !may && test.id == "x" {
				require.Equal(t, []string{why}, Explain(Input{State: s, Self: "a"}, test.id))
			}
		})
	}
}

func TestOnlyDataOfASupersededEpochIsWiped(t *testing.T) {
	s := smallSite()
	s.Epoch.N = 2
	for epoch, wipes := range map[int]bool{0: false, 1: true, 2: false, 3: false} {
		must, why := MustWipe(s, "", Data{Epoch: epoch})
		require.Equal(t, wipes, must, "data of epoch %d", epoch)
		require.Equal(t, must, why != "")
	}
	s.Epoch = nil
	must, _ := MustWipe(s, "", Data{Epoch: 1})
	require.False(t, must)
}
