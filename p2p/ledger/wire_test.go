package ledger

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p"
)

func TestMessagesOfTheWireAreAsDocumented(t *testing.T) {
	status, err := encodeStatus(followStatus{Version: 1, Site: Site{ID: "s", Generation: 2}, Index: 9, Coordinator: "c", Voter: true})
	require.NoError(t, err)
	cmd := encoded(t, "A", Txn{ID: testID(1)}.If("k", 2).Set("k", []byte("v")))
	var request bytes.Buffer
	require.NoError(t, writeMessage(&request, followRequest{Version: 1, Site: Site{ID: "s", Generation: 2}, Index: 9}))
	var delta bytes.Buffer
	w := &deltaWriter{w: &delta}
	for _, s := range []string{"heartbeat 1", "heartbeat 1", "heartbeat 2!"} {
		_, _ = w.Write([]byte(s))
	}
	vector(t, "wire", map[string]string{
		"follow request":     hex.EncodeToString(request.Bytes()),
		"status block":       hex.EncodeToString(status),
		"commands block":     hex.EncodeToString(encodeCommands([]committed{{prev: 3, index: 300, data: cmd}})),
		"proposal message":   hex.EncodeToString(proposalMessage(Site{ID: "s", Generation: 2}, cmd)),
		"three delta writes": hex.EncodeToString(delta.Bytes()),
	})
}

func TestProposalIsWorthNothingElsewhereOrChanged(t *testing.T) {
	id, _ := newIdentity(t, "a")
	other, _ := newIdentity(t, "b")
	site := Site{ID: "s", Generation: 1}
	txn := Txn{ID: testID(1)}.Set("k", []byte("v"))
	p, err := signProposal(id, site, txn)
	require.NoError(t, err)
	c, err := p.verify(site)
	require.NoError(t, err)
	require.Equal(t, id.ID(), c.author)
	for _, s := range []Site{{ID: "s"}, {ID: "s2", Generation: 1}} {
		_, err := p.verify(s)
		require.ErrorIs(t, err, p2p.ErrBadSignature)
	}
	forged := proposal{Command: encoded(t, other.ID(), txn), Signature: p.Signature}
	_, err = forged.verify(site)
	require.ErrorIs(t, err, p2p.ErrBadSignature)
	forged = proposal{Command: encoded(t, id.ID(), txn.Set("l", nil)), Signature: p.Signature}
	_, err = forged.verify(site)
	require.ErrorIs(t, err, p2p.ErrBadSignature)
}

func TestCoordinatorRefusesWhatItMayNotTake(t *testing.T) {
	s := newSite(t, 2, 1).found()
	c, worker := s.nodes[0], s.nodes[1]
	s.coordinator()
	s.settled(c.Index())
	_, err := worker.Propose(testContext(t), dns("a", "10.0.0.1", 0))
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorContains(t, err, "not a master")
	_, err = c.Propose(testContext(t), Txn{})
	require.ErrorIs(t, err, ErrRefused)

	// A worker that signs in the coordinator's name.
	txn := dns("a", "10.0.0.1", 0)
	txn.ID = NewTxnID()
	p, err := signProposal(worker.identity, c.Site(), txn)
	require.NoError(t, err)
	p.Command = encoded(t, c.id(), txn)
	for why, req := range map[string]proposeRequest{
		"signature":       {Version: 1, Site: c.Site(), Proposal: p},
		"unknown version": {Version: 2, Site: c.Site(), Proposal: p},
		"this is":         {Version: 1, Site: Site{ID: "other"}, Proposal: p},
		"transaction":     {Version: 1, Site: c.Site()},
	} {
		v, err := worker.send(testContext(t), c.id(), req)
		require.NoError(t, err)
		require.Equal(t, statusRefused, v.Status)
		require.Contains(t, v.Reason, why)
	}
	var v verdict
	require.Error(t, call(testContext(t), worker.host, c.id(), ProtocolPropose, strings.Repeat("x", maxMessage), &v))
	require.Len(t, c.List(""), 1)
}

func TestDescriptionOfTheLedgerIsChecked(t *testing.T) {
	s := newSite(t, 2, 1).found()
	n := s.nodes[1]
	_, err := Open(n.config())
	require.ErrorContains(t, err, "in use")
	n.stop()
	path := filepath.Join(n.dir, metaFile)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, bad := range []string{"", "{", `{"version":1}`, strings.Replace(string(good), `"version": 1`, `"version": 9`, 1), strings.Replace(string(good), n.id().String(), s.nodes[0].id().String(), 1)} {
		require.NoError(t, os.WriteFile(path, []byte(bad), 0o600))
		_, err := Open(n.config())
		var corrupt *CorruptError
		require.ErrorAs(t, err, &corrupt)
		require.Equal(t, path, corrupt.File)
	}
	require.NoError(t, os.WriteFile(path, good, 0o600))
	_, err = Join(n.config(), Site{ID: "other"})
	require.ErrorContains(t, err, "holds")
	_, err = Join(n.config(), Site{})
	require.Error(t, err)
	stranger := s.add("stranger")
	_, err = Found(stranger.config(), s.cert)
	require.ErrorContains(t, err, "not one of the founders")
}

func FuzzDecodeBlock(f *testing.F) {
	status, _ := encodeStatus(followStatus{Version: 1})
	f.Add(status)
	f.Add(encodeCommands([]committed{change1(f, 0, 1)}))
	f.Add([]byte{blockState, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decodeBlock(b)
		if err == nil && d.commands != nil {
			require.Equal(t, b, encodeCommands(d.commands))
		}
	})
}

func FuzzReadMessage(f *testing.F) {
	var b bytes.Buffer
	_ = writeMessage(&b, proposeRequest{Version: 1, Proposal: proposal{Command: []byte{1}}})
	f.Add(b.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		var req proposeRequest
		if readMessage(bufio.NewReader(bytes.NewReader(b)), &req) != nil {
			return
		}
		_, err := req.Proposal.verify(req.Site)
		require.Error(t, err)
	})
}

func FuzzRecords(f *testing.F) {
	f.Add(KeyEpoch, []byte(`{"n":1}`))
	f.Add(KeyCounter, []byte(`{"next":1}`))
	f.Add(PrefixSecret+SecretAgentToken, []byte(`{"to":[]}`))
	f.Add(PrefixDNS+"a", []byte(`{"a":["10.0.0.1"]}`))
	g, _ := json.Marshal(testGenesis())
	view := NewView(1, Entry{Key: KeyGenesis, Value: g, Index: 1})
	author := Masters(view)[0]
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		err := ruleSet{view: view, coordinator: author}.check(command{author: author, txn: Txn{}.Set(key, value)})
		if err != nil {
			require.ErrorIs(t, err, ErrRefused)
		}
	})
}
