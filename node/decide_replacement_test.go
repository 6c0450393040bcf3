package node

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// commit applies a transaction to a view by hand.
func commit(t *testing.T, view ledger.View, txn ledger.Txn) ledger.View {
	t.Helper()
	entries := map[string]ledger.Entry{}
	for _, e := range view.List("") {
		entries[e.Key] = e
	}
	for _, c := range txn.Compare {
		require.Equal(t, entries[c.Key].Index, c.Index, "the comparison with %s", c.Key)
	}
	for _, op := range txn.Ops {
		if op.Delete {
			delete(entries, op.Key)
			continue
		}
		entries[op.Key] = ledger.Entry{Key: op.Key, Value: op.Value, Index: view.Index() + 1}
	}
	var all []ledger.Entry
	for _, e := range entries {
		all = append(all, e)
	}
	return ledger.NewView(view.Index()+1, all...)
}

// siteOfAB is a site without Kubernetes whose master is A and whose worker is B.
func siteOfAB(t *testing.T) ledger.View {
	policy := roles.DefaultPolicy()
	policy.HA = true
	text, err := json.Marshal(policy)
	require.NoError(t, err)
	return ledger.NewView(9,
		record(t, ledger.KeyGenesis, 1, ledger.Genesis{
			Version: ledger.GenesisVersion, Site: "5a17e", Founders: []string{idA, idB}, Masters: []string{idA}, Policy: text,
			Range: "10.1.0.0/16", Proposer: idA,
		}),
		record(t, ledger.PrefixMember+idA, 2, ledger.Member{ID: idA, Hostname: "a"}),
		record(t, ledger.PrefixMember+idB, 3, ledger.Member{ID: idB, Hostname: "b"}),
		record(t, ledger.PrefixRole+idA, 4, map[string]any{"role": "master/ha", "future": true}),
		record(t, ledger.PrefixRole+idB, 5, ledger.Role{Role: "worker"}),
		record(t, ledger.PrefixName+idA, 6, ledger.Name{Name: "a"}),
		record(t, ledger.PrefixRequest+idA, 7, ledger.Request{Do: "remove"}),
		record(t, ledger.KeyEpoch, 8, ledger.Epoch{N: 1, Init: idB, CAHash: "c0ffee", Formed: true}),
	)
}

func TestAReplacementIsWrittenStepByStepAndReadBack(t *testing.T) {
	for _, gone := range []bool{false, true} {
		view := siteOfAB(t)
		a, b := roles.NodeID(idA), roles.NodeID(idB)
		for _, d := range []roles.Decision{
			roles.OpenReplacement{Replacement: roles.Replacement{Old: a, Survivor: b, Successor: b, Step: roles.StepRemove, Gone: gone, Reason: "asked"}},
			roles.NameMember{Old: a, Member: "8e"},
			roles.AdvanceReplacement{Old: a},
			roles.GivePlace{Old: a, Successor: b, Gone: gone, Reason: "asked"},
			roles.CloseReplacement{Old: a},
		} {
			before, err := siteState(view)
			require.NoError(t, err)
			txn, err := transaction(view, []roles.Decision{d})
			require.NoError(t, err)
			view = commit(t, view, txn)
			after, err := siteState(view)
			require.NoError(t, err)
			want := roles.Apply(before, d)
			require.Equal(t, want.Replacement, after.Replacement, "%s", d)
			require.Equal(t, want.Roles, after.Roles, "%s", d)
			require.Equal(t, want.Tenures[b], after.Tenures[b], "%s", d)
			require.Equal(t, want.Requests, after.Requests, "%s", d)
			require.Equal(t, want.Names, after.Names, "%s", d)
		}
		s, err := siteState(view)
		require.NoError(t, err)
		require.Nil(t, s.Replacement)
		require.Equal(t, roles.MasterHA, s.Roles[b])
		require.Equal(t, roles.Tenure{N: 1}, s.Tenures[b], "it has to be cleared")
		if gone {
			require.NotContains(t, s.Roles, a)
			require.NotContains(t, s.Names, a, "a removed member's name is free again")
			id, err := peerOf(a)
			require.NoError(t, err)
			require.True(t, ledger.IsRemoved(view, id))
			continue
		}
		require.Equal(t, roles.Worker, s.Roles[a])
		role, _, err := ledger.Read[map[string]any](view, ledger.PrefixRole+idA)
		require.NoError(t, err)
		require.Equal(t, true, role.Value["future"], "unknown fields survive")
	}
}

func TestAReplacementInOnePlanIsOneTransaction(t *testing.T) {
	view := siteOfAB(t)
	a, b := roles.NodeID(idA), roles.NodeID(idB)
	txn, err := transaction(view, []roles.Decision{
		roles.OpenReplacement{Replacement: roles.Replacement{Old: a, Successor: b, Step: roles.StepRemove, Reason: "dead"}},
		roles.AdvanceReplacement{Old: a},
		roles.GivePlace{Old: a, Successor: b, Reason: "dead"},
		roles.AssignRole{ID: b, From: roles.MasterHA, Role: roles.MasterInit, Reason: "initialises the cluster"},
	})
	require.NoError(t, err)
	s, err := siteState(commit(t, view, txn))
	require.NoError(t, err)
	require.Equal(t, roles.StepJoin, s.Replacement.Step)
	require.Equal(t, roles.MasterInit, s.Roles[b])
	require.Equal(t, 1, s.Tenures[b].N, "a later decision about the role keeps the tenure")
}

func TestAFounderRemovedBeforeItEnteredItselfDoesNotVote(t *testing.T) {
	genesis := genesisOf(t)
	s, err := siteState(ledger.NewView(1, genesis))
	require.NoError(t, err)
	require.Contains(t, s.Voters(), roles.NodeID(idA))
	s, err = siteState(ledger.NewView(2, genesis, record(t, ledger.PrefixRemoved+idA, 2, ledger.Removed{Reason: "dead"})))
	require.NoError(t, err)
	require.NotContains(t, s.Voters(), roles.NodeID(idA))
}

func TestS12DataOfAnotherTenureIsWipedAndTheNewOneNoted(t *testing.T) {
	path, distro := t.TempDir()+"/"+epochFile, &wipeCounter{}
	require.NoError(t, keepNote(path, epochNote{Epoch: 2}))
	s := inEpoch(2)
	s.Tenures = map[roles.NodeID]roles.Tenure{"n1": {N: 1}}
	why, _, err := leaveSuperseded(t.Context(), path, s, 0, nil, "n1", distro)
	require.NoError(t, err)
	require.Contains(t, why, "what it was before")
	noted, err := dataOf(path)
	require.NoError(t, err)
	require.Equal(t, roles.Data{Epoch: 2, Tenure: 1}, noted)
	why, _, err = leaveSuperseded(t.Context(), path, s, 0, nil, "n1", distro)
	require.NoError(t, err)
	require.Empty(t, why)

	s.Members = []roles.Member{{ID: "n1", Removed: true}}
	delete(s.Roles, "n1")
	why, _, err = leaveSuperseded(t.Context(), path, s, 0, nil, "n1", distro)
	require.NoError(t, err)
	require.Contains(t, why, "removed")
	noted, err = dataOf(path)
	require.NoError(t, err)
	require.Zero(t, noted.Epoch, "nothing is left to wipe")
	require.Equal(t, 2, distro.wiped)
}
