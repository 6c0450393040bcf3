package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// foundingRecord is the record that founders promise themselves to.
type foundingRecord struct {
	Site     string   `json:"site"`
	Founders []string `json:"founders"`
	Masters  []string `json:"masters"`
	Proposer string   `json:"proposer"`
}

// foundingProgress is how far a node is in founding a site, from its disk.
type foundingProgress struct {
	Attempts []struct {
		Genesis foundingRecord  `json:"genesis"`
		Promise json.RawMessage `json:"promise"`
	} `json:"attempts"`
	Founded *struct {
		Genesis foundingRecord `json:"genesis"`
	} `json:"founded"`
}

func (s *testSite) founding(name string) foundingProgress {
	var p foundingProgress
	raw, err := os.ReadFile(s.stateFile(name, "ledger", "founding.json"))
	if err == nil {
		// Always whole: it is written beside and renamed.
		require.NoError(s.t, json.Unmarshal(raw, &p))
	}
	return p
}

// promised returns the record that a node has promised itself to. It goes on
// being true when there is more: a look may come late.
func (p foundingProgress) promised() (foundingRecord, bool) {
	if p.Founded != nil {
		return p.Founded.Genesis, true
	}
	for _, a := range p.Attempts {
		if len(a.Promise) > 0 {
			return a.Genesis, true
		}
	}
	return foundingRecord{}, false
}

func (s *testSite) hasLedger(name string) bool {
	_, err := os.Stat(s.stateFile(name, "ledger", "ledger.json"))
	return err == nil
}

// genesisSteps are the moments of a founding, each as seen on one node's disk.
var genesisSteps = map[string]func(s *testSite, name string) bool{
	"a founding master that promised": func(s *testSite, name string) bool {
		record, promised := s.founding(name).promised()
		id := s.id(name)
		return promised && record.Proposer != id && slices.Contains(record.Masters, id)
	},
	"a founder that promised and is no master": func(s *testSite, name string) bool {
		record, promised := s.founding(name).promised()
		return promised && !slices.Contains(record.Masters, s.id(name))
	},
	"the proposer that promised": func(s *testSite, name string) bool {
		record, promised := s.founding(name).promised()
		return promised && record.Proposer == s.id(name)
	},
	"a founding master with the certificate": func(s *testSite, name string) bool {
		founded := s.founding(name).Founded
		return founded != nil && slices.Contains(founded.Genesis.Masters, s.id(name))
	},
	"a founder whose ledger appeared": (*testSite).hasLedger,
}

// first returns the first node for which step holds, within a millisecond or so.
func (s *testSite) first(what string, step func(*testSite, string) bool) string {
	s.t.Helper()
	names := s.names()
	return instantly(s.t, soonTime, what, func() (string, bool) {
		i := slices.IndexFunc(names, func(name string) bool { return step(s, name) })
		if i < 0 {
			return "", false
		}
		return names[i], true
	})
}

// strike cuts the power of the first node for which step holds, at once.
func (s *testSite) strike(what string, step func(*testSite, string) bool) outage {
	s.t.Helper()
	cut := s.cutPower(s.first(what, step))
	_, promised := s.founding(cut.node).promised()
	s.t.Logf("%s died: promised %v, certificate %v, ledger %v",
		cut.node, promised, s.founding(cut.node).Founded != nil, s.hasLedger(cut.node))
	return cut
}

func TestAFounderKilledAtAnyStepOfGenesisComesBackToOneSite(t *testing.T) {
	t.Parallel()
	for name, step := range genesisSteps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := haSite(t)
			config.NoK3s = true
			s := site(t, 4, config)
			s.end(s.strike(name, step))
			s.undisturbed(formTime, 3, false)
		})
	}
}

// A founder may die before it promised, and the attempt is aborted, or after, and
// the site is founded without it; either way the rest goes on with the node that
// takes its place.
func TestAFounderThatNeverComesBackIsReplacedByAnother(t *testing.T) {
	t.Parallel()
	for name, loseOne := range map[string]func(s *testSite) string{
		"after it promised": func(s *testSite) string {
			return s.strike("a founder that is no master", genesisSteps["a founder that promised and is no master"]).node
		},
		"before it promised": (*testSite).loseBeforePromise,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := haSite(t)
			config.NoK3s = true
			s := site(t, 4, config)
			dead := loseOne(s)
			_, err := s.Add(t.Context(), 1)
			require.NoError(t, err)
			s.waitReady(formTime, s.others(dead)...)

			roles, addresses, rows := map[string]int{}, map[string]bool{}, s.rows()
			for _, name := range s.others(dead) {
				roles[rows[name].Role]++
				addresses[rows[name].Address] = true
			}
			require.Equal(t, map[string]int{"master/clusterinit": 1, "master/ha": 2, "worker": 1}, roles)
			require.Len(t, addresses, 4)
			s.eventually(soonTime, "all living nodes are of one site", func() error {
				sites := map[string]bool{}
				for _, name := range s.others(dead) {
					status, err := s.status(name)
					if err != nil {
						return err
					}
					sites[status.Site] = true
				}
				if len(sites) != 1 || sites[""] {
					return fmt.Errorf("sites: %v", sites)
				}
				return nil
			})
		})
	}
}

// loseBeforePromise cuts the power of a founder that is asked for its promise. It
// has a few milliseconds for that.
func (s *testSite) loseBeforePromise() string {
	s.t.Helper()
	agents := s.agents()
	proposer := s.first("a proposer", func(s *testSite, name string) bool {
		record, promised := s.founding(name).promised()
		return promised && record.Proposer == s.id(name)
	})
	record, _ := s.founding(proposer).promised()
	i := slices.IndexFunc(record.Founders, func(id string) bool { return !slices.Contains(record.Masters, id) })
	dead := s.nodeWith(record.Founders[i])
	s.strikeDown(agents, dead)
	_, promised := s.founding(dead).promised()
	s.t.Logf("%s died: promised %v", dead, promised)
	return dead
}

// agents is the PIDs of all nodes' agents, as soon as all have one.
func (s *testSite) agents() map[string]int {
	s.t.Helper()
	agents := map[string]int{}
	s.eventually(soonTime, "every node has an agent", func() error {
		for name, row := range s.rows() {
			if agents[name] = row.AgentPID; row.AgentPID == 0 {
				return errors.New(name + " has none")
			}
		}
		return nil
	})
	return agents
}

// strikeDown cuts the power of nodes. Their agents are dead at once, the rest of
// them within a second.
func (s *testSite) strikeDown(agents map[string]int, names ...string) {
	s.t.Helper()
	for _, name := range names {
		require.NoError(s.t, unix.Kill(agents[name], unix.SIGKILL))
	}
	require.NoError(s.t, s.Kill(s.t.Context(), names...))
}
