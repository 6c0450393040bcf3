package ledger

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// vector fixes one encoding for ever. The file is what other implementations,
// and later versions of this one, are checked against.
func vector(t *testing.T, name string, got any) {
	t.Helper()
	b, err := json.MarshalIndent(got, "", "  ")
	require.NoError(t, err)
	golden(t, filepath.Join("testdata", "vectors", name+".json"), append(b, '\n'))
}

func testID(n int) TxnID {
	var id TxnID
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	id[0] = 1 // never zero
	return id
}

func encoded(t require.TestingT, author peer.ID, txn Txn) []byte {
	b, err := encodeCommand(command{author: author, txn: txn})
	require.NoError(t, err)
	return b
}

type stateVector struct {
	Index   uint64 `json:"index"`
	Command string `json:"command"`
	Outcome int    `json:"outcome"`
	At      uint64 `json:"at"`
	Key     string `json:"key,omitempty"`
}

func TestStateMachineIsFrozen(t *testing.T) {
	s := newState()
	steps := []struct {
		index   uint64
		author  peer.ID
		txn     Txn
		outcome outcome
	}{
		{2, "A", Txn{ID: testID(1)}.If("k", 0).Set("k", []byte("v1")), outcomeCommitted},
		{3, "B", Txn{ID: testID(1)}.If("k", 0).Set("k", []byte("v2")), outcomeConflict}, // same ID, other author
		{5, "B", Txn{ID: testID(2)}.If("k", 2).Set("k", []byte("v2")).Set("l", nil), outcomeCommitted},
		{6, "B", Txn{ID: testID(2)}.If("k", 2).Set("k", []byte("v2")).Set("l", nil), outcomeCommitted}, // retry
		{300, "A", Txn{ID: testID(3)}.If("l", 5).Del("l").Del("nothing"), outcomeCommitted},
		{301, "A", Txn{ID: testID(4)}.Set("größe", []byte{0, 255}), outcomeCommitted},
	}
	var v struct {
		Steps    []stateVector `json:"steps"`
		Snapshot string        `json:"snapshot"`
	}
	for _, st := range steps {
		cmd := encoded(t, st.author, st.txn)
		r := s.apply(st.index, cmd)
		require.Equal(t, st.outcome, r.outcome)
		v.Steps = append(v.Steps, stateVector{st.index, hex.EncodeToString(cmd), int(r.outcome), r.index, r.key})
	}
	bad := []byte{9, 9}
	r := s.apply(302, bad)
	v.Steps = append(v.Steps, stateVector{302, hex.EncodeToString(bad), int(r.outcome), r.index, r.key})
	v.Snapshot = hex.EncodeToString(s.encode())
	vector(t, "state", v)

	back, err := decodeState(s.encode())
	require.NoError(t, err)
	require.Equal(t, s.encode(), back.encode())
	require.Equal(t, uint64(302), back.index)
}

func TestRepetitionOutsideTheWindowIsANewTransaction(t *testing.T) {
	s := newState()
	first := encoded(t, "A", Txn{ID: testID(0)}.Set("k", nil))
	s.apply(1, first)
	for i := range dedupWindow - 1 {
		s.apply(uint64(2+i), encoded(t, "A", Txn{ID: testID(1 + i)}.Set("other", nil)))
	}
	require.Equal(t, uint64(1), s.apply(5000, first).index, "the oldest of the window")
	s.apply(5001, encoded(t, "A", Txn{ID: testID(9999)}.Set("other", nil)))
	require.Equal(t, uint64(5002), s.apply(5002, first).index)
	require.Len(t, s.window, dedupWindow)
	require.Len(t, s.results, dedupWindow)
}

func TestStateDoesNotOutgrowItsLimitAndCanAlwaysShrink(t *testing.T) {
	s := newState()
	value := make([]byte, MaxValueSize)
	n := 0
	for s.apply(uint64(n+1), encoded(t, "A", Txn{ID: testID(n)}.Set(fmt.Sprint("k", n), value))).outcome == outcomeCommitted {
		n++
	}
	require.LessOrEqual(t, s.size, MaxStateSize)
	require.Equal(t, outcomeFull, s.results[dedupKey{"A", testID(n)}].outcome)
	_, err := decodeState(s.encode())
	require.NoError(t, err)
	r := s.apply(uint64(n+2), encoded(t, "A", Txn{ID: testID(n + 1)}.Del("k0").Set("k1", nil)))
	require.Equal(t, outcomeCommitted, r.outcome)
}

// model is the machine as one would explain it: every transaction ever, in a
// list, and a map that is copied on each change.
type model struct {
	entries map[string]Entry
	history []dedupKey
	answers map[dedupKey]result
}

func (m *model) apply(index uint64, author peer.ID, t Txn) result {
	key := dedupKey{author, t.ID}
	recent := m.history[max(0, len(m.history)-dedupWindow):]
	if slices.Contains(recent, key) {
		return m.answers[key]
	}
	m.history = append(m.history, key)
	res := result{outcome: outcomeCommitted, index: index}
	for _, c := range t.Compare {
		if m.entries[c.Key].Index != c.Index {
			res.outcome, res.key = outcomeConflict, c.Key
			m.answers[key] = res
			return res
		}
	}
	next := maps.Clone(m.entries)
	for _, op := range t.Ops {
		delete(next, op.Key)
		if !op.Delete {
			next[op.Key] = Entry{Key: op.Key, Value: op.Value, Index: index, Author: author}
		}
	}
	m.entries = next
	m.answers[key] = res
	return res
}

func genTxn(t *rapid.T, view View) Txn {
	keys := []string{"a", "b", "c", "d"}
	txn := Txn{ID: testID(rapid.IntRange(0, 40).Draw(t, "id"))}
	for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 0, 3, rapid.ID).Draw(t, "compare") {
		index := view.IndexOf(k)
		if rapid.IntRange(0, 3).Draw(t, "stale") == 0 {
			index = rapid.Uint64Range(0, 50).Draw(t, "index")
		}
		txn = txn.If(k, index)
	}
	for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 1, 3, rapid.ID).Draw(t, "ops") {
		if rapid.Bool().Draw(t, "delete") {
			txn = txn.Del(k)
		} else {
			txn = txn.Set(k, rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "value"))
		}
	}
	return txn
}

func TestStateMachineDoesWhatItsModelDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, other := newState(), newState()
		m := &model{entries: map[string]Entry{}, answers: map[dedupKey]result{}}
		var views []View
		var copies []map[string]Entry
		index := uint64(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			index += rapid.Uint64Range(1, 3).Draw(t, "gap")
			author := peer.ID(rapid.SampledFrom([]string{"A", "B"}).Draw(t, "author"))
			txn := genTxn(t, s.view())
			cmd := encoded(t, author, txn)
			dry := s.dryRun(txn)
			_, repeated := s.lookup(author, txn.ID)
			got := s.apply(index, cmd)
			require.Equal(t, m.apply(index, author, txn), got)
			if !repeated {
				require.Equal(t, dry.outcome, got.outcome, "a dry run tells the outcome")
			}
			other.apply(index, cmd)
			if rapid.IntRange(0, 9).Draw(t, "restore") == 0 {
				restored, err := decodeState(other.encode())
				require.NoError(t, err)
				other = restored // a follower that took a snapshot here
			}
			v := s.view()
			views = append(views, v)
			copies = append(copies, maps.Clone(v.entries))
		}
		require.Equal(t, s.encode(), other.encode())
		want := View{entries: m.entries}.List("")
		require.Equal(t, len(want), len(s.view().List("")))
		for i, e := range s.view().List("") {
			require.Equal(t, want[i].Key, e.Key)
			require.Equal(t, string(want[i].Value), string(e.Value))
			require.Equal(t, want[i].Index, e.Index)
		}
		for i, v := range views {
			require.Equal(t, copies[i], v.entries, "a view never changes")
		}
	})
}

func TestTransactionsThatCannotBeAppliedAreRefusedWhenEncoded(t *testing.T) {
	ok := Txn{ID: testID(1)}.Set("k", nil)
	long := strings.Repeat("k", MaxKeySize+1)
	for name, txn := range map[string]Txn{
		"transaction has no ID":   Txn{}.Set("k", nil),
		"changes nothing":         {ID: testID(1)},
		"key is empty":            ok.Set("", nil),
		"more than 256":           ok.Set(long, nil),
		"changed twice":           ok.Del("k"),
		"control character":       ok.Set("a\nb", nil),
		"not UTF-8":               ok.If("\xff", 0),
		"bytes, more than 65536":  ok.Set("l", make([]byte, MaxValueSize+1)),
		"comparisons, more than":  {ID: testID(1), Ops: ok.Ops, Compare: make([]Compare, MaxCompares+1)},
		"changes, more than":      {ID: testID(1), Ops: make([]Op, MaxOps+1)},
		"carries a value":         {ID: testID(1), Ops: []Op{{Key: "k", Delete: true, Value: []byte("v")}}},
		"bytes, more than 262144": ok.Set("1", make([]byte, MaxValueSize)).Set("2", make([]byte, MaxValueSize)).Set("3", make([]byte, MaxValueSize)).Set("4", make([]byte, MaxValueSize)),
	} {
		_, err := encodeCommand(command{author: "A", txn: txn})
		require.ErrorContains(t, err, name)
	}
	_, err := encodeCommand(command{txn: ok})
	require.ErrorContains(t, err, "author")
}

func FuzzDecodeCommand(f *testing.F) {
	f.Add(encoded(f, "A", Txn{ID: testID(1)}.If("k", 300).Set("k", []byte("v")).Del("l")))
	f.Add([]byte{1, 1, 'A'})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCommand(b)
		if err != nil {
			return
		}
		again, err := encodeCommand(c)
		require.NoError(t, err)
		require.Equal(t, b, again, "one meaning, one encoding")
	})
}

func FuzzDecodeState(f *testing.F) {
	s := newState()
	s.apply(1, encoded(f, "A", Txn{ID: testID(1)}.Set("k", []byte("v"))))
	s.apply(2, encoded(f, "A", Txn{ID: testID(2)}.If("k", 9).Set("k", []byte("v"))))
	f.Add(s.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		require.Equal(t, b, s.encode(), "one state, one encoding")
	})
}
