package node

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

func TestTheCommonLevelIsWhatEveryMemberKnows(t *testing.T) {
	a, b := roles.Member{ID: idA}, roles.Member{ID: idB}
	gone := roles.Member{ID: idB, Removed: true}
	for name, c := range map[string]struct {
		members []roles.Member
		levels  map[string]int
		want    int
		known   bool
	}{
		"nobody":                    {},
		"one":                       {members: []roles.Member{a}, levels: map[string]int{idA: 3}, want: 3, known: true},
		"the lowest":                {members: []roles.Member{a, b}, levels: map[string]int{idA: 3, idB: 2}, want: 2, known: true},
		"one was not heard":         {members: []roles.Member{a, b}, levels: map[string]int{idA: 3}},
		"one says nothing of it":    {members: []roles.Member{a, b}, levels: map[string]int{idA: 3, idB: 0}},
		"removed members are apart": {members: []roles.Member{a, gone}, levels: map[string]int{idA: 3}, want: 3, known: true},
		"no such node":              {members: []roles.Member{{ID: "nobody"}}},
	} {
		t.Run(name, func(t *testing.T) {
			level, known := commonLevel(c.members, func(id peer.ID) (Facts, bool) {
				level, heard := c.levels[id.String()]
				return Facts{FeatureLevel: level}, heard
			})
			require.Equal(t, c.known, known)
			require.Equal(t, c.want, level)
		})
	}
}

func TestASiteDecidesItsFeatureLevelOnce(t *testing.T) {
	a := newTestAgent(t, "box", loopback(testToken(t), "", 1))
	a.start()
	a.until("a feature level", func() bool {
		rows, err := a.client().Ledger(t.Context(), ledger.KeyFeature)
		return err == nil && len(rows) == 1
	})
	rows, err := a.client().Ledger(t.Context(), ledger.KeyFeature)
	require.NoError(t, err)
	require.EqualValues(t, FeatureLevel, rows[0].Value.(map[string]any)["level"])
}
