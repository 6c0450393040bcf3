package ledger

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Each transcript is what goes over the wire in one history. With UPDATE=1 they
// are written anew; read the difference.
func TestFoundingTranscripts(t *testing.T) {
	for name, play := range map[string]func(t *testing.T, s *sim){
		"three founders": func(t *testing.T, s *sim) {
			s.calm(1)
			s.requireOneSite(t, "ABC")
		},
		"S1 overlapping views": func(t *testing.T, s *sim) {
			s.masters = 1
			s.views["A"], s.views["B"], s.views["C"] = []string{"A", "B"}, []string{"B", "C"}, []string{"B", "C"}
			s.tick("A")
			s.nodes["B"].patience = simTicks.Propose // B does not wait for A
			s.nodes["C"].patience = -1000
			s.tick("B")
			s.calm(8)
			require.Len(t, s.founded, 1)
		},
		"S2 proposer dies before it tells": func(t *testing.T, s *sim) {
			s.tick("A")
			s.deliver(0, false, -1) // ask B
			s.deliver(0, false, -1) // ask C
			s.kill("A")
			s.calm(2)
			s.start("A")
			s.calm(1)
			s.requireOneSite(t, "ABC")
		},
		"S2 founder dies before it promises": func(t *testing.T, s *sim) {
			s.tick("A")
			s.kill("C")
			s.calm(simTicks.Abort + 2)
			require.Len(t, s.aborted, 1)
			s.start("C")
			s.calm(6)
			s.requireOneSite(t, "ABC")
		},
		"S2 proposer and its disk are gone": func(t *testing.T, s *sim) {
			s.tick("A")
			s.deliver(0, false, -1) // ask B; C is never asked
			s.flight = nil
			s.kill("A")
			s.calm(simTicks.Abort + 2)
			require.Len(t, s.aborted, 1, "%v", s.nodes["B"].Waiting(nil))
			require.Nil(t, s.nodes["B"].bound())
		},
		"S2 one master of three decides nothing alone": func(t *testing.T, s *sim) {
			s.tick("A")
			for len(s.flight) > 0 && !strings.Contains(string(s.flight[0].raw), `"accept"`) {
				s.deliver(0, false, -1)
			}
			kept := s.flight // A's disk says commit; nobody heard
			s.flight = nil
			s.kill("A")
			s.kill("B") // one master left, which must not decide alone
			s.calm(simTicks.Stall)
			require.Empty(t, s.founded)
			require.Empty(t, s.aborted)
			s.flight = kept
			s.start("B")
			s.calm(3)
			s.start("A")
			s.calm(3)
			s.requireOneSite(t, "ABC")
		},
		"S2 what a majority voted for is repeated": func(t *testing.T, s *sim) {
			s.start("D")
			for _, n := range "ABCD" {
				s.views[string(n)] = []string{"A", "B", "C", "D"}
			}
			s.cut = func(from, to string) bool { return from == "D" && to != "A" } // A alone hears D promise
			s.tick("A")
			for s.nodes["A"].bound().drive == nil {
				s.deliver(0, false, -1)
			}
			s.cut = func(_, to string) bool { return to == "C" }
			for len(s.founded) == 0 { // A and B have voted, and A alone knows
				s.deliver(0, false, -1)
			}
			s.flight = nil
			s.kill("A")
			s.kill("D")
			s.cut = func(string, string) bool { return false }
			s.calm(2 * simTicks.Abort) // B and C have not heard D's promise, and must not abort
			s.start("A")
			s.start("D")
			s.calm(2)
			s.requireOneSite(t, "ABCD")
		},
		"S2 proposer returns with a commit that was aborted": func(t *testing.T, s *sim) {
			s.start("D")
			for _, n := range "ABCD" {
				s.views[string(n)] = []string{"A", "B", "C", "D"}
			}
			s.cut = func(from, to string) bool { return from == "D" && to != "A" } // A alone hears D promise
			s.tick("A")
			for s.nodes["A"].bound().drive == nil {
				s.deliver(0, false, -1)
			}
			require.True(t, s.nodes["A"].bound().Accepted.Commit)
			s.flight = nil
			s.kill("A")
			s.kill("D")
			s.calm(simTicks.Abort + 2)
			require.Len(t, s.aborted, 1)
			s.start("A")
			s.calm(2)
			require.Nil(t, s.nodes["A"].bound())
			require.Empty(t, s.founded)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, "ABC")
			var log bytes.Buffer
			s.log = &log
			play(t, s)
			for _, n := range slices.Sorted(maps.Keys(s.nodes)) {
				c, ok := s.nodes[n].Founded()
				if ok {
					fmt.Fprintf(&log, "%s: founded site %s\n", n, strings.TrimLeft(c.Genesis.Site, "0"))
				} else {
					fmt.Fprintf(&log, "%s: free\n", n)
				}
			}
			golden(t, filepath.Join("testdata", "genesis", strings.ReplaceAll(name, " ", "-")+".txt"), log.Bytes())
		})
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

// Any history of loss, duplication, delay, cuts, power failures between any two
// steps, and proposers with views of their own: sim.judge holds at every disk
// write, and once everybody is back and connected, everybody is in a site.
func TestFoundingIsSafeAlwaysAndLiveWhenAllAreBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := "ABCDE"[:rapid.IntRange(2, 5).Draw(t, "nodes")]
		s := newSim(t, names)
		s.masters = rapid.SampledFrom([]int{1, 3}).Draw(t, "masters")
		for i, n := range names {
			switch {
			case rapid.Bool().Draw(t, "own view"):
				var view []string
				for j, o := range names {
					if i == j || rapid.Bool().Draw(t, "sees") {
						view = append(view, string(o))
					}
				}
				if len(view) > 1 {
					s.views[string(n)] = view
				}
			}
		}
		node := rapid.SampledFrom(strings.Split(names, ""))
		chaos(t, s, node, rapid.IntRange(0, 120).Draw(t, "steps"))

		s.cut = func(string, string) bool { return false }
		for _, n := range names {
			if s.nodes[string(n)] == nil {
				s.start(string(n))
			}
			s.views[string(n)] = strings.Split(names, "")
		}
		s.calm(6 * simTicks.Stall)
		for _, n := range names {
			m := s.nodes[string(n)]
			_, founded := m.Founded()
			require.True(t, founded || m.elsewhere != "" || len(s.founded) > 0 && m.bound() == nil,
				"%c hangs: %v", n, m.Waiting(nil))
		}
		require.NotEmpty(t, s.founded)
	})
}

func chaos(t *rapid.T, s *sim, node *rapid.Generator[string], steps int) {
	for range steps {
		power := -1
		if rapid.IntRange(0, 9).Draw(t, "power") == 0 {
			power = rapid.IntRange(0, 3).Draw(t, "power for")
		}
		switch rapid.SampledFrom([]string{"deliver", "deliver", "deliver", "tick", "tick", "lose", "again", "kill", "start", "start", "cut", "burst", "flow", "flow"}).Draw(t, "step") {
		case "tick":
			n := node.Draw(t, "node")
			if m := s.nodes[n]; m != nil {
				m.Tick(s.alive(n), s.offer(n))
				s.carryOut(n, power)
			}
		case "deliver", "again", "lose":
			if len(s.flight) == 0 {
				continue
			}
			i := rapid.IntRange(0, len(s.flight)-1).Draw(t, "letter")
			if rapid.IntRange(0, 5).Draw(t, "fate") == 0 {
				s.flight = slices.Delete(s.flight, i, i+1)
				continue
			}
			s.deliver(i, rapid.IntRange(0, 3).Draw(t, "twice") == 0, power)
		case "kill":
			s.kill(node.Draw(t, "node"))
		case "start":
			if n := node.Draw(t, "node"); s.nodes[n] == nil {
				s.start(n)
			}
		case "cut":
			lonely := node.Draw(t, "node")
			if rapid.Bool().Draw(t, "heal") {
				lonely = ""
			}
			s.cut = func(a, b string) bool { return (a == lonely) != (b == lonely) }
		case "flow": // the network is quick for a moment
			for range rapid.IntRange(1, 20).Draw(t, "letters") {
				if len(s.flight) > 0 {
					s.deliver(0, false, -1)
				}
			}
		case "burst": // time passes at one node only
			n := node.Draw(t, "node")
			for range rapid.IntRange(1, simTicks.Stall).Draw(t, "ticks") {
				s.tick(n)
			}
		}
	}
}

// A node that is no master has no vote in which its ballots would be on disk;
// on a ballot used twice, both values could win.
func TestABallotIsUsedOnceEvenOverACrash(t *testing.T) {
	s := newSim(t, "ABCD")
	s.tick("A")
	for s.nodes["D"].bound() == nil {
		s.deliver(0, false, -1)
	}
	for _, n := range "ABC" {
		s.kill(string(n))
	}
	used := map[Ballot]bool{}
	for range 3 {
		for s.nodes["D"].bound().drive == nil {
			s.tick("D")
		}
		b := s.nodes["D"].bound().drive.ballot
		require.False(t, used[b], "ballot %v twice", b)
		used[b] = true
		s.kill("D")
		s.start("D")
	}
}

func TestSoleMasterThatIsGoneIsNamed(t *testing.T) {
	s := newSim(t, "AB")
	s.tick("A")
	s.deliver(0, false, -1)
	s.kill("A")
	s.calm(2 * simTicks.Stall)
	require.Empty(t, s.aborted, "one founder must not decide without the only master")
	why := strings.Join(s.nodes["B"].Waiting(nil), "\n")
	require.Contains(t, why, simID("A"))
	require.Contains(t, why, "can neither be finished nor given up")
	s.start("A")
	s.calm(4)
	s.requireOneSite(t, "AB")
}

func TestMemberNeverPromises(t *testing.T) {
	s := newSim(t, "ABC")
	s.calm(1)
	first := s.requireOneSite(t, "ABC")
	s.start("D")
	s.views["D"] = []string{"A", "B", "D"}
	s.nodes["D"].patience = 100
	s.calm(2 * simTicks.Stall)
	require.Equal(t, map[string]Certificate{first.Genesis.Site: first}, s.founded)
	require.Contains(t, s.nodes["D"].Waiting(nil)[0], "was founded without this node")
}

func TestWitnessHelpsToAbortAndNeverPromises(t *testing.T) {
	s := newSim(t, "ABC")
	s.nodes["C"].cfg.Witness = true
	delete(s.views, "C")
	s.tick("A")
	s.calm(3)
	require.Len(t, s.aborted, 1)
	require.Empty(t, s.founded)
	require.Empty(t, s.live[simID("C")])
}

func TestOutcomeWithoutItsProofCanBeProvedAgain(t *testing.T) {
	s := newSim(t, "ABC")
	s.tick("A")
	s.deliver(0, false, -1) // B promises, and nobody hears it
	s.flight = nil
	s.kill("B")
	s.calm(simTicks.Abort + 4)
	s.kill("B")
	site := slices.Collect(maps.Keys(s.aborted))[0]
	for _, n := range "AC" {
		s.nodes[string(n)].state.Proofs = nil
	}
	s.start("B")
	require.NotNil(t, s.nodes["B"].bound())
	for _, n := range "AC" {
		s.views[string(n)] = []string{"X"}
	}
	s.views["X"] = nil
	s.calm(2 * simTicks.Stall)
	require.True(t, slices.ContainsFunc(s.nodes["B"].state.Aborted, func(a abortedSite) bool { return a.Site == site }))
}

func TestForgedMessagesChangeNothing(t *testing.T) {
	s := newSim(t, "ABC")
	s.tick("A")
	for len(s.flight) > 0 && !strings.Contains(string(s.flight[0].raw), `"accept"`) {
		s.deliver(0, false, -1)
	}
	a := s.nodes["A"].bound()
	g := a.Genesis
	vote := Vote{Site: g.Site, Record: g.Digest(), Master: simID("C"), Commit: true}
	vote.Signature, _ = simSign(simID("B"))(voteContext, vote.message())
	b := s.nodes["B"]
	before := fmt.Sprintf("%+v", b.state)
	for name, msg := range map[string]genesisMessage{
		"vote of another":         {Kind: kindVoted, Site: g.Site, Vote: &vote},
		"commit without promises": {Kind: kindAccept, Site: g.Site, Genesis: &g, Accepted: &acceptance{Commit: true}},
		"abort on ballot 0":       {Kind: kindAccept, Site: g.Site, Genesis: &g, Accepted: &acceptance{}},
		"ballot of another":       {Kind: kindPrepare, Site: g.Site, Genesis: &g, Ballot: Ballot{9, simID("A")}},
		"certificate, no votes":   {Kind: kindFounded, Site: g.Site, Certificate: &Certificate{Genesis: g, Promises: sortedValues(a.promises)}},
		"abort without votes":     {Kind: kindAborted, Site: g.Site, Abort: &Abort{Genesis: g}},
		"no record":               {Kind: kindAsk, Site: g.Site},
		"unknown kind":            {Kind: "x", Site: g.Site},
	} {
		b.Step(simID("C"), msg)
		out := b.Output()
		require.Nil(t, out.State, name)
		require.Equal(t, before, fmt.Sprintf("%+v", b.state), name)
	}
}
