package ledger

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func testGenesis() Genesis {
	return Genesis{
		Version: 1, Site: "00000000000000aa", Founders: simIDs[:4], Masters: simIDs[:3],
		Policy: json.RawMessage(`{"ha":{"enable":true}}`), Range: "10.1.0.0/16", Proposer: simIDs[0],
	}
}

func testCertificate() Certificate {
	c := Certificate{Genesis: testGenesis()}
	for _, id := range c.Genesis.Founders {
		p := Promise{Site: c.Genesis.Site, Record: c.Genesis.Digest(), Founder: id, Incarnation: "00000000000000bb"}
		p.Signature, _ = simSign(id)(promiseContext, p.message())
		c.Promises = append(c.Promises, p)
	}
	for _, id := range c.Genesis.Masters[:2] {
		v := Vote{Site: c.Genesis.Site, Record: c.Genesis.Digest(), Master: id, Commit: true}
		v.Signature, _ = simSign(id)(voteContext, v.message())
		c.Votes = append(c.Votes, v)
	}
	return c
}

func TestGenesisRecordIsRefusedForWhatIsWrongWithIt(t *testing.T) {
	require.NoError(t, testGenesis().Validate())
	for want, spoil := range map[string]func(g *Genesis){
		"version 2":        func(g *Genesis) { g.Version = 2 },
		"site ID":          func(g *Genesis) { g.Site = "berlin" },
		"0 founders":       func(g *Genesis) { g.Founders = nil },
		"not sorted":       func(g *Genesis) { g.Founders = []string{simIDs[1], simIDs[0]} },
		"name one twice":   func(g *Genesis) { g.Masters = []string{simIDs[0], simIDs[0], simIDs[1]} },
		"not a peer ID":    func(g *Genesis) { g.Founders = []string{"a"} },
		"odd number":       func(g *Genesis) { g.Masters = simIDs[:2] },
		"is not a founder": func(g *Genesis) { g.Masters = []string{simIDs[5]} },
		"proposer":         func(g *Genesis) { g.Proposer = simIDs[5] },
		"address range":    func(g *Genesis) { g.Range = "10.1" },
		"not JSON":         func(g *Genesis) { g.Policy = json.RawMessage(`{`) },
		"longer than":      func(g *Genesis) { g.Policy = json.RawMessage(`"` + strings.Repeat("x", MaxGenesisSize) + `"`) },
	} {
		g := testGenesis()
		spoil(&g)
		err := g.Validate()
		require.ErrorIs(t, err, ErrBadGenesis, want)
		require.ErrorContains(t, err, want)
	}
}

func TestCertificateProvesEveryPromiseAndAMajority(t *testing.T) {
	require.NoError(t, testCertificate().verify(simVerify))
	for name, spoil := range map[string]func(c *Certificate){
		"promise missing":      func(c *Certificate) { c.Promises = c.Promises[1:] },
		"promise twice":        func(c *Certificate) { c.Promises[1] = c.Promises[0] },
		"promise forged":       func(c *Certificate) { c.Promises[1].Signature = c.Promises[0].Signature },
		"other incarnation":    func(c *Certificate) { c.Promises[1].Incarnation = "00000000000000cc" },
		"bad incarnation":      func(c *Certificate) { c.Promises[1].Incarnation = "x" },
		"other record":         func(c *Certificate) { c.Genesis.Range = "10.2.0.0/16" },
		"no majority":          func(c *Certificate) { c.Votes = c.Votes[:1] },
		"vote twice":           func(c *Certificate) { c.Votes[1] = c.Votes[0] },
		"vote of a worker":     func(c *Certificate) { c.Votes[1].Master = c.Genesis.Founders[3] },
		"vote to abort":        func(c *Certificate) { c.Votes[0].Commit = false },
		"votes on two ballots": func(c *Certificate) { c.Votes[1].Ballot.Round = 1 },
		"vote forged":          func(c *Certificate) { c.Votes[1].Signature = c.Votes[0].Signature },
	} {
		c := testCertificate()
		spoil(&c)
		require.ErrorIs(t, c.verify(simVerify), ErrBadGenesis, name)
	}
	c := testCertificate()
	require.Error(t, Abort{Genesis: c.Genesis, Votes: c.Votes}.verify(simVerify), "votes to commit abort nothing")
	require.ErrorIs(t, c.Verify(), ErrBadGenesis, "these signatures are not Ed25519")
}

// The digest is signed and compared by every founder, so it may never change
// for the same record.
func TestGenesisDigestVector(t *testing.T) {
	raw, err := os.ReadFile("testdata/genesis.json")
	require.NoError(t, err)
	var vector struct {
		Genesis Genesis `json:"genesis"`
		Digest  Digest  `json:"digest"`
	}
	require.NoError(t, json.Unmarshal(raw, &vector))
	require.Equal(t, vector.Digest, vector.Genesis.Digest())
	require.Equal(t, testGenesis().Digest(), vector.Digest, "spaces in the policy do not count")
}

func TestS5IncarnationLivesAndDiesWithItsStorage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ledger")
	first, err := Incarnation(dir)
	require.NoError(t, err)
	again, err := Incarnation(dir)
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.NoError(t, os.RemoveAll(dir))
	other, err := Incarnation(dir)
	require.NoError(t, err)
	require.NotEqual(t, first, other)
	require.NoError(t, os.WriteFile(filepath.Join(dir, incarnationFile), []byte("zz"), 0o600))
	_, err = Incarnation(dir)
	require.ErrorContains(t, err, "damaged")
}

func FuzzGenesisMessage(f *testing.F) {
	c := testCertificate()
	for _, m := range []genesisMessage{
		{Kind: kindAsk, Site: c.Genesis.Site, Genesis: &c.Genesis},
		{Kind: kindFounded, Site: c.Genesis.Site, Certificate: &c},
		{Kind: kindVoted, Site: c.Genesis.Site, Vote: &c.Votes[0]},
		{Kind: kindPrepared, Site: c.Genesis.Site, Ballot: Ballot{1, simIDs[0]}, Accepted: &acceptance{Commit: true, Promises: c.Promises}},
	} {
		var wire bytes.Buffer
		require.NoError(f, writeGenesisMessage(&wire, m))
		f.Add(wire.Bytes())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		msg, err := readGenesisMessage(bytes.NewReader(raw))
		if err != nil {
			return
		}
		m := newMachine(machineConfig{Self: simIDs[1], Incarnation: "00000000000000bb", Sign: simSign(simIDs[1]), Verify: simVerify, Ticks: simTicks}, foundingState{})
		m.Step(simIDs[0], msg)
		require.NoError(t, m.Output().Err)
	})
}
