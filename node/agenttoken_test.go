package node

import (
	"fmt"
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
	type facts = map[roles.NodeID]Facts
	for name, c := range map[string]struct {
		self  roles.NodeID
		facts facts
		want  string
	}{
		"the first":                      {"a", facts{"a": serving(1), "b": serving(1), "c": serving(1)}, ""},
		"the first, though others did":   {"a", facts{"a": serving(1), "b": serving(2), "c": serving(2)}, ""},
		"the second, too early":          {"b", facts{"a": serving(1), "b": serving(1), "c": serving(1)}, "after that of a"},
		"the second, while the first":    {"b", facts{"a": starting, "b": serving(1), "c": serving(1)}, "once Kubernetes is healthy on a"},
		"the second":                     {"b", facts{"a": serving(2), "b": serving(1), "c": serving(1)}, ""},
		"the last":                       {"c", facts{"a": serving(2), "b": serving(1), "c": serving(1)}, "after that of b"},
		"one is an epoch further behind": {"a", facts{"a": serving(1), "b": serving(0), "c": serving(1)}, "after that of b"},
		"one is dead":                    {"a", facts{"a": serving(1), "b": serving(1)}, "once Kubernetes is healthy on c"},
		"it is ill itself":               {"a", facts{"a": starting, "b": serving(1), "c": serving(1)}, "once Kubernetes is healthy on a"},
	} {
		t.Run(name, func(t *testing.T) {
			look := func(id roles.NodeID) (Facts, bool) { f, ok := c.facts[id]; return f, ok }
			own := min(c.facts[c.self].Kubernetes.TokenEpoch, 1)
			require.Equal(t, c.want, agentTokenTurn(c.self, state, own, look))
		})
	}
	all := func(roles.NodeID) (Facts, bool) { return serving(1), true }
	state.Replacement = &roles.Replacement{}
	require.NotEmpty(t, agentTokenTurn("a", state, 1, all))
	alone := roles.State{Members: []roles.Member{{ID: "a"}}, Roles: map[roles.NodeID]roles.Role{"a": roles.Master}}
	require.Empty(t, agentTokenTurn("a", alone, 1, all))
}

// tokenMaster is a master whose K3s may run with a former agent token.
type tokenMaster struct {
	epoch uint64 // of the token that K3s runs with
	knows uint64 // the last epoch that it heard decided
	down  int    // steps until its restarted K3s serves
	said  []KubernetesFacts
	heard map[roles.NodeID]int // which of what the others said
}

func (m *tokenMaster) say() {
	m.said = append(m.said, KubernetesFacts{Serving: m.down == 0, NodeReady: true, TokenEpoch: m.epoch})
}

// However late each hears what the others say and what is decided, no two restart K3s at a time, and all have the last token in the end.
func TestMastersTakeANewAgentTokenOneAfterAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		state := roles.State{Roles: map[roles.NodeID]roles.Role{}}
		all := map[roles.NodeID]*tokenMaster{}
		for i := range rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "masters") {
			id := roles.NodeID(fmt.Sprint("m", i))
			state.Members = append(state.Members, roles.Member{ID: id})
			state.Roles[id] = roles.MasterHA
			all[id] = &tokenMaster{heard: map[roles.NodeID]int{}}
			all[id].say()
		}
		decided := uint64(1)
		step := func(id roles.NodeID, news, decision bool) {
			m := all[id]
			if decision {
				m.knows = decided
			}
			for other, o := range all {
				if news || other == id {
					m.heard[other] = len(o.said) - 1
				}
			}
			if m.down > 0 {
				if m.down--; m.down == 0 && rapid.Bool().Draw(t, "says so at once") {
					m.say()
				}
				return
			}
			if last := m.said[len(m.said)-1]; last.TokenEpoch != m.epoch || !last.Serving {
				m.say()
			}
			look := func(other roles.NodeID) (Facts, bool) {
				return Facts{Kubernetes: all[other].said[m.heard[other]]}, true
			}
			if m.epoch == m.knows || agentTokenTurn(id, state, m.epoch, look) != "" {
				return
			}
			for other, o := range all {
				if o.down > 0 {
					t.Fatalf("%s restarts K3s while it is down on %s", id, other)
				}
			}
			m.down, m.epoch = 2, m.knows
			// What it said before may be all that others hear for long.
			if rapid.Bool().Draw(t, "says so while it is down") {
				m.say()
			}
		}
		for range rapid.IntRange(0, 80).Draw(t, "steps") {
			if decided < 4 && rapid.IntRange(0, 15).Draw(t, "revoked") == 0 {
				decided++
			}
			step(rapid.SampledFrom(state.Members).Draw(t, "who").ID, rapid.Bool().Draw(t, "news"), rapid.Bool().Draw(t, "decision"))
		}
		for range 10 * len(state.Members) {
			for _, m := range state.Members {
				step(m.ID, true, true)
			}
		}
		for id, m := range all {
			require.Equal(t, decided, m.epoch, id)
			require.Zero(t, m.down, id)
		}
	})
}
