package node

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p/ledger"
)

func TestS28TwoSitesAreSaidOnBothSidesAndByNewcomers(t *testing.T) {
	red, blue := ledger.Site{ID: "red"}, ledger.Site{ID: "blue"}
	newer := ledger.Site{ID: "red", Generation: 1<<32 | 1}
	twin := ledger.Site{ID: "red", Generation: 1<<32 | 2}
	seen := func(sites ...ledger.Site) map[ledger.Site][]string {
		all := map[ledger.Site][]string{}
		for _, s := range sites {
			all[s] = []string{"n9", "n8"}
		}
		return all
	}
	require.Empty(t, memberConflicts(red, seen(red)))
	require.Empty(t, memberConflicts(red, seen(red, newer)), "it gives way")
	require.Empty(t, memberConflicts(newer, seen(red, newer)), "the others give way")
	for _, c := range []struct{ own, other ledger.Site }{{red, blue}, {blue, red}, {newer, twin}, {twin, newer}} {
		why := memberConflicts(c.own, seen(c.own, c.other))
		require.Len(t, why, 1)
		require.True(t, strings.HasPrefix(why[0], "SiteConflict: "), why)
		require.Contains(t, why[0], "n8 and n9")
	}
	require.Empty(t, newcomerConflict(seen(red, newer)))
	require.Contains(t, newcomerConflict(seen(red, blue))[0], "joins none of them")
	require.Contains(t, newcomerConflict(seen(newer, twin))[0], "SiteConflict")
}
