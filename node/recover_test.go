package node

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// haLoopback is loopback with three masters.
func haLoopback(token, bootstrap string, minimum int) string {
	return loopback(token, bootstrap, minimum) + "  auto: {ha: {enable: true, master_nodes: 2}}\n"
}

// loopbackSite starts a site of agents on loopback, whose first is where the
// others look, and waits until all run.
func loopbackSite(t *testing.T, nodes int, text func(token, bootstrap string, minimum int) string) []*testAgent {
	t.Helper()
	token := testToken(t)
	all := []*testAgent{newTestAgent(t, "n1", text(token, "", nodes))}
	all[0].start()
	bootstrap := all[0].bootstrap()
	for i := 2; i <= nodes; i++ {
		a := newTestAgent(t, fmt.Sprintf("n%d", i), text(token, bootstrap, nodes))
		all = append(all, a)
		a.start()
	}
	for _, a := range all {
		a.until("running", func() bool {
			return a.phase().Phase == PhaseRunning && a.status().Members == nodes && len(a.why()) == 0
		})
	}
	return all
}

// split tells masters from workers.
func split(all []*testAgent) (masters, workers []*testAgent) {
	for _, a := range all {
		if a.status().Role.IsMaster() {
			masters = append(masters, a)
		} else {
			workers = append(workers, a)
		}
	}
	return masters, workers
}

func TestS7ASiteThatLostItsQuorumSaysSoAndIsRecoveredFromTheSurvivor(t *testing.T) {
	all := loopbackSite(t, 4, haLoopback)
	masters, workers := split(all)
	require.Len(t, masters, 3)
	survivor, worker, lost := masters[0], workers[0], masters[1:]
	addresses := roster(t, survivor)

	// While there is a quorum there is nothing to recover.
	plan, err := survivor.client().Recover(t.Context(), RecoveryRequest{Yes: true})
	require.NoError(t, err)
	require.NotEmpty(t, plan.Refused)
	require.False(t, plan.Done)
	require.Zero(t, survivor.status().Generation)

	for _, a := range lost {
		a.stop()
	}
	for _, a := range []*testAgent{survivor, worker} {
		a.until("it says who is missing", func() bool {
			s := a.status()
			if s.Quorum || len(s.WaitingFor) == 0 {
				return false
			}
			for _, part := range []string{lost[0].opts.Hostname, lost[1].opts.Hostname, "muster ledger recover", "not been seen for"} {
				if !containsAny(s.WaitingFor, part) {
					return false
				}
			}
			return true
		})
	}
	require.Error(t, survivor.client().SetDNS(t.Context(), "nobody", []string{"192.0.2.1"}), "nothing is decided")

	// A worker sends the operator to the master that is left.
	plan, err = worker.client().Recover(t.Context(), RecoveryRequest{})
	require.NoError(t, err)
	require.True(t, containsAny(plan.Refused, survivor.opts.Hostname), plan.Refused)

	// The plan first, and nothing changes.
	plan, err = survivor.client().Recover(t.Context(), RecoveryRequest{})
	require.NoError(t, err)
	require.Empty(t, plan.Refused)
	require.ElementsMatch(t, []string{lost[0].opts.Hostname, lost[1].opts.Hostname}, plan.Lost)
	require.Len(t, plan.Copies, 2)
	require.False(t, plan.Done)
	require.Zero(t, survivor.status().Generation)

	plan, err = survivor.client().Recover(t.Context(), RecoveryRequest{Yes: true})
	require.NoError(t, err)
	require.True(t, plan.Done)
	for _, a := range []*testAgent{survivor, worker} {
		a.until("generation 1 decides", func() bool { s := a.status(); return s.Generation == 1 && s.Quorum })
	}
	for id, before := range addresses {
		require.Equal(t, before.address, roster(t, survivor)[id].address, "everybody keeps its address")
	}
	require.NoError(t, survivor.client().SetDNS(t.Context(), "after", []string{"192.0.2.1"}))

	// The lost masters come back, both at once: a majority of the old generation.
	for _, a := range lost {
		a.start()
	}
	for _, a := range lost {
		a.until("it gives way", func() bool {
			s := a.status()
			return s.Generation == 1 && s.Role == roles.Worker && s.Coordinator == survivor.identity.ID().String()
		})
		records, err := a.client().DNS(t.Context())
		require.NoError(t, err)
		require.Len(t, records, 1, "it has what generation 1 decided")
	}
	require.Equal(t, []string{survivor.identity.ID().String()}, survivor.status().Voters)
}

func containsAny(sentences []string, part string) bool {
	for _, s := range sentences {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}

func TestS3ASiteWhoseOnlyMasterIsLostIsRecoveredFromAWorker(t *testing.T) {
	all := loopbackSite(t, 3, loopback)
	masters, workers := split(all)
	require.Len(t, masters, 1)
	masters[0].stop()
	heir, other := workers[0], workers[1]
	heir.until("no quorum", func() bool { return !heir.status().Quorum })
	other.until("no quorum", func() bool { return !other.status().Quorum })
	plan, err := heir.client().Recover(t.Context(), RecoveryRequest{Yes: true})
	require.NoError(t, err)
	require.Empty(t, plan.Refused)
	require.True(t, plan.Done)
	for _, a := range workers {
		a.until("generation 1 decides", func() bool { s := a.status(); return s.Generation == 1 && s.Quorum })
	}
	heir.until("a master", func() bool { return heir.status().Role == roles.Master })
	require.NoError(t, heir.client().SetDNS(t.Context(), "after", []string{"192.0.2.1"}))
	masters[0].start()
	masters[0].until("it gives way", func() bool { return masters[0].status().Generation == 1 && masters[0].status().Role == roles.Worker })
}

func TestAServersDataSurvivesARecoveryOnlyOnTheNodeThatWasKept(t *testing.T) { // S7
	server, agent := true, false
	gen := func(n uint64) uint64 { return n << 32 }
	recovery := func(n uint64, kept ...string) ledger.Recovery {
		return ledger.Recovery{From: gen(n - 1), Generation: gen(n), Kept: kept}
	}
	for name, c := range map[string]struct {
		note       epochNote
		recoveries []ledger.Recovery
		want       fate
	}{
		"never ran":                        {epochNote{}, []ledger.Recovery{recovery(1)}, fateKeep},
		"no recovery":                      {epochNote{Epoch: 1, Server: &server}, nil, fateKeep},
		"a server that was kept":           {epochNote{Epoch: 1, Server: &server}, []ledger.Recovery{recovery(1, "me")}, fateReset},
		"a server that was given up":       {epochNote{Epoch: 1, Server: &server}, []ledger.Recovery{recovery(1, "you")}, fateWipe},
		"an agent":                         {epochNote{Epoch: 1, Server: &agent}, []ledger.Recovery{recovery(1, "you")}, fateRestart},
		"an agent that began later":        {epochNote{Epoch: 1, Generation: gen(1), Server: &agent}, []ledger.Recovery{recovery(1, "you")}, fateKeep},
		"nobody noted whose data it is":    {epochNote{Epoch: 1}, []ledger.Recovery{recovery(1, "you")}, fateWipe},
		"a server that began later":        {epochNote{Epoch: 1, Generation: gen(1), Server: &server}, []ledger.Recovery{recovery(1, "you")}, fateKeep},
		"kept by one and not by the other": {epochNote{Epoch: 1, Server: &server}, []ledger.Recovery{recovery(1, "me"), recovery(2, "you")}, fateWipe},
		"all masters were lost":            {epochNote{Epoch: 1, Server: &server}, []ledger.Recovery{recovery(1)}, fateWipe},
	} {
		t.Run(name, func(t *testing.T) {
			got, why := fateOf(c.note, c.recoveries, "me")
			require.Equal(t, c.want, got)
			require.Equal(t, c.want == fateWipe, why != "")
		})
	}
}

func TestWhatAWorkersCopyAloneSaysAboutPowerIsNamed(t *testing.T) {
	own := siteOfAB(t)
	require.Empty(t, powersChanged(own, own))
	entries := own.List("")
	named := ledger.NewView(12, append(entries, record(t, ledger.PrefixName+idB, 11, ledger.Name{Name: "b"}))...)
	require.Empty(t, powersChanged(own, named), "a name gives nobody power")
	var promoted []ledger.Entry
	for _, e := range entries {
		if e.Key == ledger.PrefixRole+idB {
			e = record(t, e.Key, 11, ledger.Role{Role: "master/ha"})
		}
		promoted = append(promoted, e)
	}
	promoted = append(promoted, record(t, ledger.KeyEnrolment, 12, map[string]any{"epoch": 1}))
	require.Equal(t, []string{"who is a master", "the token"}, powersChanged(own, ledger.NewView(12, promoted...)))
}

func TestANewcomerAsksTheNewestGenerationAndNoneOfTwoThatAreEqual(t *testing.T) {
	old, one, twin := ledger.Site{ID: "s"}, ledger.Site{ID: "s", Generation: 1<<32 | 5}, ledger.Site{ID: "s", Generation: 1<<32 | 7}
	require.Equal(t, []ledger.Site{one}, currentSites([]ledger.Site{old, one, old, one}))
	require.Equal(t, []ledger.Site{one, twin}, currentSites([]ledger.Site{one, twin, old}))
	require.Equal(t, []ledger.Site{old, {ID: "t"}}, currentSites([]ledger.Site{old, {ID: "t"}}))
}
