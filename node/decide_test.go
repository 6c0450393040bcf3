package node

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// Two nodes whose IDs never change, for golden files.
const (
	idA = "12D3KooWGzh1c4XDGNWQkQC8NRMQHQk7tHkPhjYNDsqYtfKZ9zpq"
	idB = "12D3KooWHFrmLWTTDD4NodngtRMEVYgxrsDMp4F9iSwYntZ9WjHa"
)

// record is an entry as the ledger would hold it.
func record(t *testing.T, key string, index uint64, value any) ledger.Entry {
	t.Helper()
	text, err := json.Marshal(value)
	require.NoError(t, err)
	return ledger.Entry{Key: key, Value: text, Index: index}
}

// genesisOf is the record of a site of A and B, whose one master is A.
func genesisOf(t *testing.T) ledger.Entry {
	policy, err := json.Marshal(roles.DefaultPolicy())
	require.NoError(t, err)
	return record(t, ledger.KeyGenesis, 1, ledger.Genesis{
		Version: ledger.GenesisVersion, Site: "5a17e", Founders: []string{idA, idB}, Masters: []string{idA}, Policy: policy,
		Range: "10.1.0.0/16", Proposer: idA,
	})
}

func spellTxn(txn ledger.Txn) string {
	var out strings.Builder
	for _, c := range txn.Compare {
		fmt.Fprintf(&out, "if %s is at %d\n", c.Key, c.Index)
	}
	for _, op := range txn.Ops {
		fmt.Fprintf(&out, "set %s to %s\n", op.Key, op.Value)
	}
	return out.String()
}

func TestAPlanIsOneTransaction(t *testing.T) {
	empty := ledger.NewView(1, genesisOf(t))
	later := ledger.NewView(9, genesisOf(t),
		record(t, ledger.KeyCounter, 5, map[string]any{"next": 2, "version": 2, "reserve": 7}),
		record(t, ledger.KeyEpoch, 6, map[string]any{"n": 1, "init": idA, "ca_hash": strings.Repeat("ab", 32), "version": 2, "future": true}),
		record(t, ledger.PrefixRole+idA, 7, map[string]any{"role": "master/clusterinit", "version": 1, "future": true}),
	)
	a, b := roles.NodeID(idA), roles.NodeID(idB)
	for name, c := range map[string]struct {
		view      ledger.View
		decisions []roles.Decision
	}{
		"first": {empty, []roles.Decision{
			roles.AssignAddress{ID: a, Addr: netip.MustParseAddr("10.1.0.1"), Counter: 2},
			roles.AssignName{ID: a, Name: "n1"},
			roles.AssignAddress{ID: b, Addr: netip.MustParseAddr("10.1.0.2"), Counter: 3},
			roles.StartEpoch{N: 1, Init: a},
			roles.AssignRole{ID: a, Role: roles.Master, Reason: "the only master"},
		}},
		"formed": {later, []roles.Decision{roles.MarkFormed{N: 1}}},
		"role":   {later, []roles.Decision{roles.AssignRole{ID: a, From: roles.MasterInit, Role: roles.MasterHA, Reason: "another master initialises the cluster"}}},
		"late":   {later, []roles.Decision{roles.AssignAddress{ID: b, Addr: netip.MustParseAddr("10.1.0.2"), Counter: 3}}},
	} {
		t.Run(name, func(t *testing.T) {
			txn, err := transaction(c.view, c.decisions)
			require.NoError(t, err)
			require.Equal(t, ledger.KeyCounter, txn.Compare[0].Key, "of two plans from one state only one commits")
			require.Equal(t, c.view.IndexOf(ledger.KeyCounter), txn.Compare[0].Index)
			for _, op := range txn.Ops {
				compared := false
				for _, compare := range txn.Compare {
					compared = compared || compare.Key == op.Key && compare.Index == c.view.IndexOf(op.Key)
				}
				require.True(t, compared, "%s is written only as it was seen", op.Key)
			}
			golden(t, "plan/"+name+".txt", spellTxn(txn))
		})
	}
}

func TestAPlanAboutNobodyIsRefused(t *testing.T) {
	for _, d := range []roles.Decision{
		roles.AssignAddress{ID: "nobody"}, roles.AssignName{ID: "nobody"}, roles.AssignRole{ID: "nobody"},
	} {
		_, err := transaction(ledger.NewView(0), []roles.Decision{d})
		require.ErrorContains(t, err, `"nobody"`)
	}
}

func TestDecisionsAsThePlannerSpeaksOfThem(t *testing.T) {
	view := ledger.NewView(9, genesisOf(t),
		record(t, ledger.PrefixMember+idA, 2, ledger.Member{ID: idA, Hostname: "n1", StaticRole: "master"}),
		record(t, ledger.PrefixMember+idB, 3, ledger.Member{ID: idB, Hostname: "n2"}),
		record(t, ledger.PrefixAddress+idA, 4, ledger.Address{Addr: "10.1.0.1"}),
		record(t, ledger.PrefixRole+idA, 4, ledger.Role{Role: "master"}),
		record(t, ledger.PrefixName+idA, 4, ledger.Name{Name: "n1"}),
		record(t, ledger.KeyCounter, 4, ledger.Counter{Next: 2}),
		record(t, ledger.KeyEpoch, 5, ledger.Epoch{N: 1, Init: idA, CAHash: "abc", Formed: true}),
	)
	s, err := siteState(view)
	require.NoError(t, err)
	a, b := roles.NodeID(idA), roles.NodeID(idB)
	require.Equal(t, []roles.NodeID{a}, s.Masters)
	require.ElementsMatch(t, []roles.Member{
		{ID: a, Hostname: "n1", StaticRole: roles.Master, Joined: 2}, {ID: b, Hostname: "n2", Joined: 3},
	}, s.Members)
	require.Equal(t, map[roles.NodeID]roles.Role{a: roles.Master}, s.Roles)
	require.Equal(t, map[roles.NodeID]netip.Addr{a: netip.MustParseAddr("10.1.0.1")}, s.Addresses)
	require.Equal(t, map[roles.NodeID]string{a: "n1"}, s.Names)
	require.EqualValues(t, 2, s.NextAddress)
	require.Equal(t, &roles.Epoch{N: 1, Init: a, CAHash: "abc", FormedMasters: true}, s.Epoch)
	require.Equal(t, netip.MustParsePrefix("10.1.0.0/16"), s.Policy.Range, "the range is what genesis chose")
}

func TestAnOperatorsPolicyStandsInForThatOfGenesis(t *testing.T) {
	policy := roles.DefaultPolicy()
	policy.DynamicRoles = true
	s, err := siteState(ledger.NewView(2, genesisOf(t), record(t, ledger.KeyPolicy, 2, policy)))
	require.NoError(t, err)
	require.True(t, s.Policy.DynamicRoles)
	require.Equal(t, netip.MustParsePrefix("10.1.0.0/16"), s.Policy.Range)
}

func TestBeforeGenesisThereIsNothingToPlanWith(t *testing.T) {
	s, err := siteState(ledger.NewView(0))
	require.NoError(t, err)
	require.Empty(t, s.Members)
	require.NotNil(t, s.Roles)
}

func TestADamagedDecisionIsNamed(t *testing.T) {
	for key, value := range map[string]string{
		ledger.KeyCounter:          `[]`,
		ledger.KeyEpoch:            `"x"`,
		ledger.KeyPolicy:           `{"minimum_nodes":"many"}`,
		ledger.PrefixAddress + idA: `{"addr":"ten"}`,
	} {
		_, err := siteState(ledger.NewView(2, genesisOf(t), ledger.Entry{Key: key, Value: []byte(value), Index: 2}))
		require.Error(t, err, key)
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	rows := ledgerRows([]ledger.Entry{
		{Key: ledger.SecretKey("agent-token"), Value: []byte(`{"to":["x"],"age":"AAAA"}`), Index: 3},
		{Key: ledger.KeyCounter, Value: []byte(`{"next":3}`), Index: 4},
		{Key: "newer/kind", Value: []byte("\xffno JSON"), Index: 5},
	})
	text, err := json.Marshal(rows)
	require.NoError(t, err)
	require.NotContains(t, string(text), "AAAA")
	require.Equal(t, "sealed", rows[0].Value)
	require.Equal(t, map[string]any{"next": 3.0}, rows[1].Value)
	require.Equal(t, []ledgerRow{}, ledgerRows(nil), "an empty list is [] in JSON")
}

func TestPeerIDsOfTheTestsAreReal(t *testing.T) {
	for _, id := range []string{idA, idB} {
		_, err := peer.Decode(id)
		require.NoError(t, err)
	}
}
