package node

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/test"
	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

func TestWhyNamesWhatASiteLacks(t *testing.T) {
	var voters []peer.ID
	name := map[roles.NodeID]string{}
	state := roles.State{Roles: map[roles.NodeID]roles.Role{}}
	for i := range 3 {
		id := test.RandPeerIDFatal(t)
		voters = append(voters, id)
		name[nodeID(id)] = fmt.Sprintf("n%d", i+1)
		state.Roles[nodeID(id)] = roles.MasterHA
	}
	worker := test.RandPeerIDFatal(t)
	name[nodeID(worker)], state.Roles[nodeID(worker)] = "n4", roles.Worker
	n := func(i int) roles.NodeID { return nodeID(voters[i-1]) }
	// alive is a health in which only the given masters are seen.
	alive := func(seen ...int) map[roles.NodeID]roles.Health {
		h := map[roles.NodeID]roles.Health{nodeID(worker): {Alive: true}}
		for _, v := range voters {
			h[nodeID(v)] = roles.Health{DeadFor: 12*time.Second + 345*time.Millisecond}
		}
		for _, i := range seen {
			h[n(i)] = roles.Health{Alive: true}
		}
		return h
	}
	voter := ledger.Status{Voter: true, Voters: voters, Quorum: true}
	undecided := ledger.Status{Voter: true, Voters: voters}

	for what, c := range map[string]struct {
		siteView
		want []string
	}{
		"all is well": {siteView: siteView{self: n(1), founded: true, status: voter, health: alive(1, 2, 3)}},
		"a master that is down is named, with what helps": {
			siteView: siteView{self: n(1), founded: true, status: voter, health: alive(1, 3)},
			want:     []string{"master n2 has not been seen for 12s: power it on, or look at its network"},
		},
		"a lost majority names who is missing and how many must come": {
			siteView: siteView{self: n(1), founded: true, status: undecided, health: alive(1)},
			want: []string{"nothing can be decided: 2 of 3 masters must be up, and n2 has not been seen for 12s and n3 has not been seen for 12s; what runs goes on. " +
				"Start 1 of n2 and n3, or, if they never return, run `muster ledger recover` on a master that is left"},
		},
		"all masters lost leave it to any node": {
			siteView: siteView{self: nodeID(worker), founded: true, status: ledger.Status{Voters: voters[:1], Following: voters[0]}, health: alive()},
			want: []string{"nothing can be decided: 1 of 1 masters must be up, and n1 has not been seen for 12s; what runs goes on. " +
				"Start n1, or, if it never returns, run `muster ledger recover` on any node"},
		},
		"an election with everybody there says just that": {
			siteView: siteView{self: n(1), founded: true, status: undecided, health: alive(2, 3)},
			want:     []string{"the masters are electing a coordinator"},
		},
		"an election names who is not part of it": {
			siteView: siteView{self: n(1), founded: true, status: undecided, health: alive(1, 2)},
			want:     []string{"the masters are electing a coordinator without n3, which cannot be seen"},
		},
		"a follower without a feed names who could feed it": {
			siteView: siteView{self: nodeID(worker), founded: true, status: ledger.Status{Voters: voters, Quorum: true}, health: alive(1, 2, 3)},
			want:     []string{"no master can be reached to hear the site's decisions: n1, n2 and n3 should be; what runs goes on"},
		},
		"what the planner waits for names whom it is about": {
			siteView: siteView{self: n(1), founded: true, status: voter, health: alive(1, 2), waiting: []roles.Waiting{
				{ID: n(3), Reason: "it has been dead for 5s"}, {ID: n(1), Reason: "it is not Ready yet"}, {Reason: "1 more master must come"},
			}},
			want: []string{"n3: it has been dead for 5s", "this node: it is not Ready yet", "1 more master must come"},
		},
		"a full disk is said": {
			siteView: siteView{self: n(1), founded: true, health: alive(1, 2, 3), status: ledger.Status{
				Voter: true, Voters: voters, Quorum: true, Problem: errors.New("no space left on device"),
			}},
			want: []string{"the copy of the decisions cannot be written, is the disk full? (no space left on device)"},
		},
		"a site that went on without this node is said": {
			siteView: siteView{self: n(1), founded: true, health: alive(1, 2, 3), status: ledger.Status{
				Voter: true, Voters: voters, Quorum: true, Superseded: 2 << 32, Site: ledger.Site{Generation: 1 << 32},
			}},
			want: []string{"the site was recovered as generation 2-00000000, and this node is of generation 1-00000000: it gives way as soon as it has that generation's decisions"},
		},
		"before the first decision the founding explains": {siteView: siteView{self: n(1), status: undecided, health: alive(1, 2, 3)}},
	} {
		t.Run(what, func(t *testing.T) {
			v := c.siteView
			v.state, v.name = state, func(id roles.NodeID) string { return name[id] }
			require.Equal(t, c.want, v.why())
		})
	}
}

func TestWhyNamesAFoundingMasterThatWasLostBeforeItEnrolled(t *testing.T) {
	self, lost, here := nodeID(test.RandPeerIDFatal(t)), nodeID(test.RandPeerIDFatal(t)), nodeID(test.RandPeerIDFatal(t))
	state := roles.State{Masters: []roles.NodeID{self, lost, here}, Members: []roles.Member{{ID: self}}}
	require.ElementsMatch(t, state.Masters, watched(state))
	view := siteView{
		self: self, founded: true, status: ledger.Status{Voter: true, Quorum: true}, state: state,
		health: map[roles.NodeID]roles.Health{self: {Alive: true}, lost: {DeadFor: 12 * time.Second}, here: {Alive: true}},
		name:   func(roles.NodeID) string { return "n2" },
	}
	require.Equal(t, []string{
		"founding master n2 has not taken its role yet, and has not been seen for 12s: power it on, or look at its network",
	}, view.why())
	view.state.Members = append(view.state.Members, roles.Member{ID: lost})
	require.Empty(t, view.why())
}

func TestEveryPhaseButRunningSaysSomething(t *testing.T) {
	for phase := range transitions {
		if phase != PhaseRunning {
			require.NotEmpty(t, phaseWords[phase], phase)
		}
	}
}

func TestTheUnhappyAreNeverWithoutASentence(t *testing.T) {
	a := newTestAgent(t, "lonely", loopback(testToken(t), "", 2))
	agent, err := New(a.opts)
	require.NoError(t, err)
	require.Equal(t, []string{phaseWords[PhaseStarting]}, agent.status().WaitingFor, "before it runs")
	require.NoError(t, agent.close())

	a.start()
	a.until("two sentences", func() bool { return len(a.why()) == 2 })
	why := a.why()
	require.Contains(t, why[0], "1 more node must come to found the site: 1 of 2 here, lonely")
	require.Contains(t, why[1], `no other node with this token and network_id "kairos" answers`)
}

func TestPeerIDsAreWrittenAsHostnames(t *testing.T) {
	a := newTestAgent(t, "box", loopback(testToken(t), "", 1))
	a.start()
	a.until("running", func() bool { return a.phase().Phase == PhaseRunning })
	id := a.identity.ID().String()
	require.Equal(t, "founder box has not promised", a.withNames("founder "+id+" has not promised"))
	other := test.RandPeerIDFatal(t).String()
	require.Equal(t, "founder "+other, a.withNames("founder "+other), "nothing is known of it")
}

func TestDriftIsAWarningForEachDifference(t *testing.T) {
	own, site := roles.DefaultPolicy(), roles.DefaultPolicy()
	require.Empty(t, driftWarnings(own, site))
	own.Kubernetes, own.MinimumNodes = false, 5
	warnings := driftWarnings(own, site)
	require.Equal(t, []string{
		"this node's configuration differs from the site's policy, which counts: minimum_nodes is 5 instead of 2 (`muster policy show`)",
		"this node's configuration differs from the site's policy, which counts: k3s.enabled is false instead of true (`muster policy show`)",
	}, warnings)
	require.Equal(t, warnings, Status{Warnings: append([]string{"k3s.env: something else"}, warnings...)}.Drift())
}

func TestWhyIsPrintedAsSentences(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, WriteWhy(&out, []string{"n2: it is not Ready yet", "waiting for n3"}))
	require.Equal(t, "n2: it is not Ready yet\nwaiting for n3\n", out.String())
	out.Reset()
	require.NoError(t, WriteWhy(&out, nil))
	require.Equal(t, "nothing: this node is healthy in its role\n", out.String())
}

func TestEnumerate(t *testing.T) {
	for want, names := range map[string]string{"nobody": "", "a": "a", "a and b": "a b", "a, b and c": "a b c"} {
		require.Equal(t, want, enumerate(strings.Fields(names)))
	}
}
