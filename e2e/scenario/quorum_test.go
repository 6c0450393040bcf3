package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// recoveryPlan is what `muster ledger recover -o json` shows.
type recoveryPlan struct {
	Generation string   `json:"generation"`
	Lost       []string `json:"lost"`
	Refused    []string `json:"refused"`
	Done       bool     `json:"done"`
}

func (s *testSite) recoverLedger(name string, args ...string) recoveryPlan {
	s.t.Helper()
	var plan recoveryPlan
	out := s.run(name, append([]string{"muster", "ledger", "recover", "-o", "json"}, args...)...)
	require.NoError(s.t, json.Unmarshal([]byte(out), &plan), out)
	return plan
}

// Three masters and a worker lose two masters: what runs goes on and nothing is
// decided. Then the two never return, and an operator goes on from the third; then
// one of them does return.
func TestS7ALostMajorityIsSaidAndRecoveredFromTheSurvivor(t *testing.T) {
	t.Parallel()
	s := site(t, 4, haSite(t))
	s.undisturbed(readyTime, 3, true)
	masters, worker := s.masters(), s.byRole()["worker"][0]
	survivor, lost := masters[0], masters[1:]
	before := s.standings()
	require.Contains(t, s.refused(4, survivor, "muster", "ledger", "recover", "--yes"), "quorum")
	k3s := s.k3sProcesses(s.rows()[worker])
	for _, name := range lost {
		s.cutPower(name)
	}
	for _, name := range []string{survivor, worker} {
		s.waitWhy(soonTime, name, "nothing can be decided", before[lost[0]].Hostname, before[lost[1]].Hostname, "muster ledger recover")
		status, err := s.status(name)
		require.NoError(t, err)
		require.False(t, status.Quorum, name)
	}
	s.run(worker, "ping", "-c", "1", "-w", "10", before[survivor].Address) // the mesh goes on
	require.Equal(t, k3s, s.k3sProcesses(s.rows()[worker]), "so does K3s")
	require.Contains(t, s.refused(4, worker, "muster", "ledger", "recover"), before[survivor].Hostname)

	// etcd notices some time later that it has no majority either.
	s.eventually(soonTime, "a plan that nothing speaks against", func() error {
		out, err := s.Exec(t.Context(), survivor, "muster", "ledger", "recover")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	require.True(t, s.recoverLedger(survivor, "--yes").Done)
	s.decidesAmong([]string{survivor, worker}, survivor, "after")
	s.eventually(readyTime, "the worker's K3s started again, with nothing in mind that the survivor's etcd never had", func() error {
		if slices.Equal(k3s, s.k3sProcesses(s.rows()[worker])) {
			return errors.New("it did not")
		}
		return nil
	})
	s.waitReady(readyTime, survivor, worker)
	s.eventually(readyTime, "etcd is the survivor's alone", func() error {
		members, err := s.etcdMembers(survivor)
		if err == nil && len(members) != 1 {
			err = fmt.Errorf("%v", members)
		}
		return err
	})

	// One comes back: it neither votes nor goes on with its etcd, and is a worker.
	back := lost[0]
	require.NoError(t, s.Start(t.Context(), back))
	s.eventually(readyTime, "it gave way, wiped, and joined as a worker", func() error {
		status, err := s.status(back)
		if err != nil {
			return err
		}
		if status.Role != "worker" || status.Phase != "running" || !status.Quorum {
			return fmt.Errorf("%+v", status)
		}
		return nil
	})
	require.Empty(t, s.clusterCA(back), "its server's data is gone")
	after := s.standings()[back]
	require.Equal(t, before[back].Address, after.Address)
	s.decidesAmong([]string{survivor, worker, back}, survivor, "again")
}

// decidesAmong is decides for the nodes that have power.
func (s *testSite) decidesAmong(names []string, through, record string) {
	s.t.Helper()
	s.eventually(soonTime, "a decision through "+through, func() error {
		_, err := s.Exec(s.t.Context(), through, "muster", "dns", "set", record, "192.0.2.1")
		return err
	})
	s.eventually(soonTime, "every node has the decision", func() error {
		for _, name := range names {
			rows, err := s.ledger(name, "dns/"+record)
			if err != nil {
				return err
			}
			if len(rows) != 1 {
				return errors.New(name + " does not have it")
			}
		}
		return nil
	})
}
