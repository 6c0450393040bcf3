package node

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/muster-edge/muster/roles"
)

func TestAMasterWaitsForTheOthersBeforeItTakesANewAgentToken(t *testing.T) {
	state := roles.State{
		Members: []roles.Member{{ID: "a"}, {ID: "b"}, {ID: "c"}, {ID: "w"}, {ID: "gone", Removed: true}},
		Roles:   map[roles.NodeID]roles.Role{"a": roles.MasterInit, "b": roles.MasterHA, "c": roles.MasterHA, "w": roles.Worker, "gone": roles.MasterHA},
	}
	serving := func(epoch uint64) Facts {
		return Facts{Kubernetes: KubernetesFacts{Serving: true, NodeReady: true, TokenEpoch: epoch}}
	}
	starting := Facts{Kubernetes: KubernetesFacts{NodeReady: true, TokenEpoch: 2}}
	for name, c := range map[string]struct {
		self  roles.NodeID
		facts map[roles.NodeID]Facts
		want  string
	}{
		"the first":                   {"a", map[roles.NodeID]Facts{"b": serving(1), "c": serving(1)}, ""},
		"the first, though others do": {"a", map[roles.NodeID]Facts{"b": serving(2), "c": serving(2)}, ""},
		"the second, too early":       {"b", map[roles.NodeID]Facts{"a": serving(1), "c": serving(1)}, "after a"},
		"the second, while the first": {"b", map[roles.NodeID]Facts{"a": starting, "c": serving(1)}, "until Kubernetes is healthy on a"},
		"the second":                  {"b", map[roles.NodeID]Facts{"a": serving(2), "c": serving(1)}, ""},
		"the last":                    {"c", map[roles.NodeID]Facts{"a": serving(2), "b": serving(1)}, "after b"},
		"one is dead":                 {"a", map[roles.NodeID]Facts{"b": serving(1)}, "until Kubernetes is healthy on c"},
	} {
		t.Run(name, func(t *testing.T) {
			got := agentTokenTurn(c.self, state, 2, func(id roles.NodeID) (Facts, bool) { f, ok := c.facts[id]; return f, ok })
			require.Equal(t, c.want, got)
		})
	}
	state.Replacement = &roles.Replacement{}
	require.NotEmpty(t, agentTokenTurn("a", state, 2, func(roles.NodeID) (Facts, bool) { return serving(1), true }))
	alone := roles.State{Members: []roles.Member{{ID: "a"}}, Roles: map[roles.NodeID]roles.Role{"a": roles.Master}}
	require.Empty(t, agentTokenTurn("a", alone, 2, nil))
}

// Whatever facts each master has of the others, and however old they are, no two restart K3s at a time, and all do in the end.
func TestMastersTakeANewAgentTokenOneAfterAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		state := roles.State{Roles: map[roles.NodeID]roles.Role{}}
		masters := rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "masters")
		for i := range masters {
			id := roles.NodeID(fmt.Sprint("m", i))
			state.Members = append(state.Members, roles.Member{ID: id})
			state.Roles[id] = roles.MasterHA
		}
		type master struct {
			facts []KubernetesFacts
			down  int // steps until its restarted K3s serves
			heard map[roles.NodeID]int
		}
		all := map[roles.NodeID]*master{}
		for _, m := range state.Members {
			all[m.ID] = &master{facts: []KubernetesFacts{{Serving: true, NodeReady: true, TokenEpoch: 1}}, heard: map[roles.NodeID]int{}}
		}
		last := func(m *master) KubernetesFacts { return m.facts[len(m.facts)-1] }
		step := func(id roles.NodeID, news bool) {
			m := all[id]
			for other, o := range all {
				if news {
					m.heard[other] = len(o.facts) - 1
				}
			}
			if m.down > 0 {
				if m.down--; m.down == 0 {
					m.facts = append(m.facts, KubernetesFacts{Serving: true, NodeReady: true, TokenEpoch: 2})
				}
				return
			}
			if last(m).TokenEpoch == 2 {
				return
			}
			look := func(other roles.NodeID) (Facts, bool) {
				return Facts{Kubernetes: all[other].facts[m.heard[other]]}, true
			}
			if agentTokenTurn(id, state, 2, look) != "" {
				return
			}
			var down []string
			for other, o := range all {
				if o.down > 0 {
					down = append(down, string(other))
				}
			}
			if len(down) > 0 {
				t.Fatalf("%s restarts K3s while it is down on %s", id, strings.Join(down, ", "))
			}
			m.down = 2
			m.facts = append(m.facts, KubernetesFacts{NodeReady: true, TokenEpoch: 2})
		}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			step(rapid.SampledFrom(state.Members).Draw(t, "who").ID, rapid.Bool().Draw(t, "news"))
		}
		for range 5 * masters {
			for _, m := range state.Members {
				step(m.ID, true)
			}
		}
		require.False(t, slices.ContainsFunc(state.Members, func(m roles.Member) bool {
			f := last(all[m.ID])
			return f.TokenEpoch != 2 || !f.Serving
		}), "all have taken it")
	})
}
