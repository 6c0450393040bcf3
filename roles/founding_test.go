package roles

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func randomCandidates(t *rapid.T, policy Policy) []Candidate {
	var candidates []Candidate
	for i := range rapid.IntRange(1, 12).Draw(t, "candidates") {
		c := Candidate{ID: NodeID(fmt.Sprintf("id%02d", i)), Policy: policy}
		c.StaticRole = rapid.SampledFrom([]Role{None, None, Master, Worker}).Draw(t, "static role")
		c.JoinOnly = rapid.IntRange(0, 5).Draw(t, "join_only") == 0
		c.Conflict = rapid.IntRange(0, 9).Draw(t, "conflict") == 0
		c.LANs = []netip.Prefix{netip.MustParsePrefix(rapid.SampledFrom([]string{
			"192.168.1.0/24", "10.1.0.0/24", "10.101.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "fd00::/64",
		}).Draw(t, "lan"))}
		candidates = append(candidates, c)
	}
	return candidates
}

// TestNodesThatSeeEachOtherFoundTheSame: one view gives one record, whoever proposes and in whatever order it saw them, and
// what it founds is what the policy asks for.
func TestNodesThatSeeEachOtherFoundTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := randomPolicy().Draw(t, "policy")
		candidates := randomCandidates(t, policy)
		shuffled := rapid.Permutation(candidates).Draw(t, "order")

		var records []Founding
		for _, c := range shuffled {
			founding, why := PlanFounding(c.ID, shuffled)
			if c.JoinOnly || c.Conflict {
				require.NotEmpty(t, why)
			}
			if len(why) > 0 {
				require.Zero(t, founding)
				continue
			}
			again, _ := PlanFounding(c.ID, candidates)
			require.Equal(t, founding, again)
			records = append(records, founding)
		}
		for _, record := range records {
			require.Equal(t, records[0], record)
			checkFounding(t, record, policy, candidates)
		}
	})
}

func checkFounding(t *rapid.T, f Founding, policy Policy, candidates []Candidate) {
	require.GreaterOrEqual(t, len(f.Founders), policy.FoundingSize())
	require.Len(t, f.Masters, policy.Masters())
	require.True(t, slices.IsSorted(f.Founders) && slices.IsSorted(f.Masters))
	require.Equal(t, f.Range, f.Policy.Range)
	require.Subset(t, f.Founders, f.Masters)
	require.NoError(t, f.Policy.Validate())

	otherMasters, refusedStatic := false, false
	for _, c := range candidates {
		founder, master := slices.Contains(f.Founders, c.ID), slices.Contains(f.Masters, c.ID)
		require.Equal(t, !c.JoinOnly && !c.Conflict, founder, "%s", c.ID)
		require.False(t, master && c.StaticRole == Worker)
		require.False(t, master && c.StaticRole == None && !policy.Auto)
		otherMasters = otherMasters || master && c.StaticRole == None
		refusedStatic = refusedStatic || founder && !master && c.StaticRole == Master
		if founder {
			_, clash := overlap(f.Range, c.LANs)
			require.False(t, clash)
		}
	}
	require.False(t, otherMasters && refusedStatic, "a static master is passed over")
}

func TestFoundingSaysWhyNot(t *testing.T) {
	node := func(id NodeID, change func(*Candidate)) Candidate {
		c := Candidate{ID: id, Hostname: "kairos", Policy: DefaultPolicy()}
		if change != nil {
			change(&c)
		}
		return c
	}
	lan := func(prefixes ...string) func(*Candidate) {
		return func(c *Candidate) {
			for _, p := range prefixes {
				c.LANs = append(c.LANs, netip.MustParsePrefix(p))
			}
		}
	}
	chosen := func(prefix string) func(*Candidate) {
		return func(c *Candidate) { c.Policy.Range = netip.MustParsePrefix(prefix) }
	}
	for name, test := range map[string]struct {
		candidates []Candidate
		says       []string
	}{
		"nobody": {nil, []string{"this node's own facts are not published yet"}},
		"own key held twice": {
			[]Candidate{node("a", func(c *Candidate) { c.Conflict = true }), node("b", nil)},
			[]string{"another live machine holds this node's key: end one of them, or give one a new identity"},
		},
		"own ID seen twice": {
			[]Candidate{node("a", nil), node("a", nil), node("b", nil)},
			[]string{"another live machine holds this node's key: end one of them, or give one a new identity"},
		},
		"another's key held twice": {
			[]Candidate{node("a", nil), node("12D3KooWbbbb2222", nil), node("12D3KooWbbbb2222", nil)},
			[]string{
				"1 more node must come to found the site: 1 of 2 here, kairos (a) (minimum_nodes is 2)",
				"kairos (…bbbb2222) does not count: two live machines hold its key",
			},
		},
		"impossible policy": {
			[]Candidate{node("a", func(c *Candidate) { c.Policy.MinimumNodes, c.Policy.ReplaceAfter = 0, 0 })},
			[]string{"this node's policy is impossible: minimum_nodes is 0: at least 1; replace_after is 0s: it must be more than zero"},
		},
		"range of one's own in a LAN": {
			[]Candidate{node("a", chosen("10.7.0.0/16")), node("b", func(c *Candidate) { chosen("10.7.0.0/16")(c); lan("10.7.1.0/24")(c) })},
			[]string{"range 10.7.0.0/16 overlaps 10.7.1.0/24, a network of kairos (b): choose another range, or leave it out"},
		},
		"no range left": {
			[]Candidate{node("a", lan("10.0.0.0/8", "172.16.0.0/12")), node("b", lan("192.168.0.0/16", "100.64.0.0/10"))},
			[]string{"no mesh range is clear of the founders' networks (the last tried: range 100.101.0.0/16 overlaps 100.64.0.0/10, a network of kairos (b)): set one"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			founding, why := PlanFounding("a", test.candidates)
			require.Equal(t, test.says, why)
			require.Zero(t, founding)
		})
	}
}

func TestMoreNodesThanCanFoundJoinAfterwards(t *testing.T) {
	var candidates []Candidate
	for i := range MaxFounders + 2 {
		candidates = append(candidates, Candidate{ID: NodeID(fmt.Sprintf("id%02d", i)), Policy: DefaultPolicy()})
	}
	candidates[MaxFounders+1].StaticRole = Master

	founding, why := PlanFounding("id00", candidates)
	require.Empty(t, why)
	require.Len(t, founding.Founders, MaxFounders)
	require.Equal(t, []NodeID{"id65"}, founding.Masters, "a static master is among the founders wherever it sorts")
	_, why = PlanFounding("id64", candidates)
	require.Equal(t, []string{"64 other nodes found the site, the most that can: this node joins it then"}, why)
}
