package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
)

// dedupWindow is how many outcomes the state machine remembers. A retry that
// comes later than so many other transactions could take effect twice; a
// proposer gives up after seconds, a site decides a few times per second at
// most. Frozen.
const dedupWindow = 1024

// outcome says what became of a command. The numbers are part of the snapshot
// encoding. Frozen.
type outcome uint8

const (
	outcomeCommitted outcome = 1
	outcomeConflict  outcome = 2 // a comparison failed
	outcomeFull      outcome = 3 // the state would outgrow MaxStateSize
	outcomeMalformed outcome = 4 // not a command of a version known here
)

// result is the answer of the state machine to one command.
type result struct {
	outcome outcome
	index   uint64 // where the command was first applied
	key     string // outcomeConflict: the first key that did not compare
}

// dedupKey is what makes two commands the same intent. The author is part of
// it: nobody can pre-empt another node's ID.
type dedupKey struct {
	author peer.ID
	id     TxnID
}

// state is the frozen key/value machine. It is pure: what it holds is a
// function of the commands applied, nothing else. Not safe for concurrent use.
type state struct {
	index   uint64 // of the last command applied
	size    int    // bytes of all keys and values
	entries map[string]Entry
	shared  bool // entries is held by a View: clone before writing

	results map[dedupKey]result
	window  []dedupKey // oldest first, at most dedupWindow
}

func newState() *state {
	return &state{entries: map[string]Entry{}, results: map[dedupKey]result{}}
}

// view returns what the state holds now.
func (s *state) view() View {
	s.shared = true
	return View{index: s.index, entries: s.entries}
}

// apply is the whole of the machine's behaviour. Every voter and every follower
// calls it with the same commands at the same, growing indices.
//
//   - An author's ID seen within the window: the old result, no change.
//   - A comparison that does not hold: conflict, no change.
//   - A state that would outgrow MaxStateSize: full, no change.
//   - Bytes that are no command: malformed, no change. (A newer version's
//     command is never proposed before every node knows it: feature level.)
//
// The index advances in each case.
func (s *state) apply(index uint64, data []byte) result {
	s.index = index
	c, err := decodeCommand(data)
	if err != nil {
		return result{outcome: outcomeMalformed, index: index}
	}
	key := dedupKey{c.author, c.txn.ID}
	if old, seen := s.results[key]; seen {
		return old
	}
	res := s.dryRun(c.txn)
	res.index = index
	if res.outcome == outcomeCommitted {
		s.change(index, c)
	}
	s.remember(key, res)
	return res
}

// lookup returns what became of an intent, if the window still holds it.
func (s *state) lookup(author peer.ID, id TxnID) (result, bool) {
	r, ok := s.results[dedupKey{author, id}]
	return r, ok
}

// recall returns the answer to a command that has been applied.
func (s *state) recall(c committed) result {
	cmd, err := decodeCommand(c.data)
	if err != nil {
		return result{outcome: outcomeMalformed, index: c.index}
	}
	if r, ok := s.lookup(cmd.author, cmd.txn.ID); ok {
		return r
	}
	// Only a command more than dedupWindow ago comes here, replayed by a Raft
	// that is far behind its own copy; nobody waits for its answer.
	return result{outcome: outcomeMalformed, index: c.index}
}

// dryRun says what would become of a transaction that is applied next.
func (s *state) dryRun(t Txn) result {
	for _, c := range t.Compare {
		if s.entries[c.Key].Index != c.Index {
			return result{outcome: outcomeConflict, key: c.Key}
		}
	}
	size := s.size
	for _, op := range t.Ops {
		if old, ok := s.entries[op.Key]; ok {
			size -= len(old.Key) + len(old.Value)
		}
		if !op.Delete {
			size += len(op.Key) + len(op.Value)
		}
	}
	if size > MaxStateSize && size > s.size {
		return result{outcome: outcomeFull}
	}
	return result{outcome: outcomeCommitted}
}

func (s *state) change(index uint64, c command) {
	if s.shared {
		s.entries = maps.Clone(s.entries)
		s.shared = false
	}
	for _, op := range c.txn.Ops {
		if old, ok := s.entries[op.Key]; ok {
			s.size -= len(old.Key) + len(old.Value)
			delete(s.entries, op.Key)
		}
		if op.Delete {
			continue
		}
		s.entries[op.Key] = Entry{Key: op.Key, Value: op.Value, Index: index, Author: c.author}
		s.size += len(op.Key) + len(op.Value)
	}
}

func (s *state) remember(key dedupKey, res result) {
	if len(s.window) == dedupWindow {
		delete(s.results, s.window[0])
		s.window = slices.Delete(s.window, 0, 1)
	}
	s.window = append(s.window, key)
	s.results[key] = res
}

const snapshotVersion = 1

// maxSnapshotSize bounds what a decoder accepts: the state itself, the index
// and author beside each entry, and the dedup window with its keys.
const maxSnapshotSize = 2*MaxStateSize + dedupWindow*(MaxKeySize+maxAuthorSize+64)

// encode writes the frozen snapshot form:
//
//	version 1 | index | n, n x (key, value, index, author), sorted by key |
//	n, n x (author, ID (16), outcome (1), index, key), oldest first
func (s *state) encode() []byte {
	b := []byte{snapshotVersion}
	b = binary.AppendUvarint(b, s.index)
	b = binary.AppendUvarint(b, uint64(len(s.entries)))
	for _, k := range slices.Sorted(maps.Keys(s.entries)) {
		e := s.entries[k]
		b = appendBytes(b, e.Key)
		b = appendBytes(b, e.Value)
		b = binary.AppendUvarint(b, e.Index)
		b = appendBytes(b, string(e.Author))
	}
	b = binary.AppendUvarint(b, uint64(len(s.window)))
	for _, k := range s.window {
		r := s.results[k]
		b = appendBytes(b, string(k.author))
		b = append(b, k.id[:]...)
		b = append(b, byte(r.outcome))
		b = binary.AppendUvarint(b, r.index)
		b = appendBytes(b, r.key)
	}
	return b
}

func decodeState(b []byte) (*state, error) {
	if len(b) > maxSnapshotSize {
		return nil, fmt.Errorf("decode snapshot: %d bytes, more than %d", len(b), maxSnapshotSize)
	}
	s := newState()
	r := &reader{rest: b}
	if v := r.byte(); r.err == nil && v != snapshotVersion {
		return nil, fmt.Errorf("decode snapshot: unknown version %d", v)
	}
	s.index = r.uint()
	last := ""
	for range r.count("entries", MaxStateSize) {
		e := Entry{
			Key:    string(r.bytes("key", MaxKeySize)),
			Value:  bytes.Clone(r.bytes("value", MaxValueSize)),
			Index:  r.uint(),
			Author: peer.ID(r.bytes("author", maxAuthorSize)),
		}
		if r.err != nil {
			break
		}
		if err := checkKey(e.Key); err != nil {
			r.fail(err)
		} else if e.Key <= last {
			r.fail(fmt.Errorf("key %q out of order", e.Key))
		} else if e.Index == 0 || e.Index > s.index {
			r.fail(fmt.Errorf("key %q changed at %d, beyond the snapshot's index %d", e.Key, e.Index, s.index))
		}
		last = e.Key
		s.size += len(e.Key) + len(e.Value)
		s.entries[e.Key] = e
	}
	for range r.count("results", dedupWindow) {
		var k dedupKey
		k.author = peer.ID(r.bytes("author", maxAuthorSize))
		copy(k.id[:], r.fixed(len(k.id)))
		res := result{outcome: outcome(r.byte()), index: r.uint()}
		res.key = string(r.bytes("key", MaxKeySize))
		if r.err != nil {
			break
		}
		if _, twice := s.results[k]; twice {
			r.fail(fmt.Errorf("result %s is there twice", k.id))
		} else if res.outcome < outcomeCommitted || res.outcome > outcomeFull {
			r.fail(fmt.Errorf("unknown outcome %d", res.outcome))
		}
		s.window = append(s.window, k)
		s.results[k] = res
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("decode snapshot: %w", err)
	}
	if s.size > MaxStateSize {
		return nil, fmt.Errorf("decode snapshot: %d bytes of keys and values, more than %d", s.size, MaxStateSize)
	}
	return s, nil
}
