package scenario

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
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

// promised returns the record that a node has promised itself to and that has no
// outcome on its disk yet.
func (p foundingProgress) promised() (foundingRecord, bool) {
	for _, a := range p.Attempts {
		if len(a.Promise) > 0 && p.Founded == nil {
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

func TestAFounderThatNeverComesBackIsReplacedByAnother(t *testing.T) {
	t.Parallel()
	config := haSite(t)
	config.NoK3s = true
	s := site(t, 4, config)
	dead := s.strike("a founder that is no master", genesisSteps["a founder that promised and is no master"])
	added, err := s.Add(t.Context(), 1)
	require.NoError(t, err)
	s.waitReady(formTime, append(s.others(append(added, dead.node)...), added...)...)

	rows := s.rows()
	addresses := map[string]bool{}
	for _, name := range s.others(dead.node) {
		addresses[rows[name].Address] = true
	}
	require.Len(t, addresses, 4)
	require.Len(t, s.masters(), 3)
	require.Len(t, s.byRole()["master/clusterinit"], 1)
	s.eventually(soonTime, "all living nodes are of one site", func() error {
		sites := map[string]bool{}
		for _, name := range s.others(dead.node) {
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
}
