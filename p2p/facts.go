package p2p

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// MaxFacts bounds how many nodes' facts are kept: far beyond a site's
	// size, so that only somebody who misbehaves meets it.
	MaxFacts = 2048

	ownFactFile    = "own"
	knownFactsFile = "known"
)

// ErrTooManyFacts is returned by [Facts.Merge] for a new node when [MaxFacts]
// are held, or as many of strangers as are put up with (see [Facts.Expect]).
var ErrTooManyFacts = errors.New("too many facts")

// Facts is what nodes say about themselves: one signed record per node, written
// and versioned by that node alone, of which the newest is kept. It is safe for
// concurrent use.
//
// Whoever holds a fact can pass it on, but nobody can change it. A receiver
// needs no order of arrival and no trust in the sender, only the signature and
// the version.
type Facts struct {
	dir     string
	id      *Identity
	changed Notifier

	mu        sync.Mutex
	facts     map[peer.ID]Fact
	published bool                  // this process published a body of its own
	outrun    int                   // how often somebody else's version of our fact was ahead of ours
	conflicts map[peer.ID]time.Time // last seen, by key
	expected  func(peer.ID) bool    // nil: anybody
	dirty     bool                  // facts of others that are not on disk yet
}

// OpenFacts loads this node's own fact and the last known ones of others from
// dir, which is made if it is missing.
//
// A missing or damaged file is not an error: facts of others come back by
// gossip, and so does the own version, as other nodes hold it under our
// signature.
func OpenFacts(dir string, id *Identity) (*Facts, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open facts: %w", err)
	}
	f := &Facts{dir: dir, id: id, facts: make(map[peer.ID]Fact), conflicts: make(map[peer.ID]time.Time)}
	for _, name := range []string{ownFactFile, knownFactsFile} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open facts: %w", err)
		}
		facts := loadFacts(name, raw)
		for _, fact := range facts {
			if (fact.ID == id.ID()) == (name == ownFactFile) && fact.Verify() == nil && len(f.facts) < MaxFacts {
				f.facts[fact.ID] = fact
			}
		}
	}
	return f, nil
}

func loadFacts(name string, raw []byte) []Fact {
	if name == ownFactFile {
		var own Fact
		if own.UnmarshalBinary(raw) != nil {
			return nil
		}
		return []Fact{own}
	}
	facts, _ := decodeFacts(raw) // what comes before the damage is good: each is signed
	return facts
}

// Publish makes body, a JSON value of at most [MaxFactSize] bytes, this node's
// fact under the next version. The version is on disk before anybody can see
// it, so it never goes back. A body that is the same as before changes nothing.
func (f *Facts) Publish(body []byte) error {
	if len(body) > MaxFactSize {
		return fmt.Errorf("publish fact: %w: body of %d bytes, limit %d", ErrBadFact, len(body), MaxFactSize)
	}
	if !json.Valid(body) {
		return fmt.Errorf("publish fact: %w: body is not JSON", ErrBadFact)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	own, ok := f.facts[f.id.ID()]
	f.published = true
	if ok && bytes.Equal(own.Body, body) {
		return nil
	}
	return f.publishLocked(own.Version+1, bytes.Clone(body))
}

func (f *Facts) publishLocked(version uint64, body []byte) error {
	fact := Fact{ID: f.id.ID(), Version: version, Body: body}
	sig, err := f.id.Sign(factContext, fact.message())
	if err != nil {
		return fmt.Errorf("publish fact: %w", err)
	}
	fact.Signature = sig
	return f.setOwnLocked(fact)
}

func (f *Facts) setOwnLocked(fact Fact) error {
	raw, err := fact.MarshalBinary()
	if err != nil {
		return fmt.Errorf("publish fact: %w", err)
	}
	if err := WriteFile(filepath.Join(f.dir, ownFactFile), raw, 0o600); err != nil {
		return fmt.Errorf("publish fact: %w", err)
	}
	f.facts[fact.ID] = fact
	f.changed.Notify()
	return nil
}

// Expect says who is expected to have facts, from now on. Of others some are kept
// all the same, as a newcomer's fact may be ahead of the decision that let it in.
func (f *Facts) Expect(expected func(peer.ID) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expected = expected
}

// refuses tells whether a new node's fact is one too many.
func (f *Facts) refuses(id peer.ID) bool {
	f.mu.Lock()
	expected := f.expected
	others := make([]peer.ID, 0, len(f.facts))
	for other := range f.facts {
		others = append(others, other)
	}
	f.mu.Unlock()
	return expected != nil && tooManyUnexpected(id, others, expected)
}

// Get returns the newest fact known of a node. Its Body is shared: do not
// change it.
func (f *Facts) Get(id peer.ID) (Fact, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fact, ok := f.facts[id]
	return fact, ok
}

// All returns the newest fact known of every node, this one included, sorted by
// ID.
func (f *Facts) All() []Fact {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.allLocked(func(Fact) bool { return true })
}

func (f *Facts) allLocked(keep func(Fact) bool) []Fact {
	out := make([]Fact, 0, len(f.facts))
	for _, fact := range f.facts {
		if keep(fact) {
			out = append(out, fact)
		}
	}
	slices.SortFunc(out, func(a, b Fact) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out
}

// Merge takes a fact that arrived from somewhere and keeps it if it is newer
// than what is known. It returns an error wrapping [ErrBadFact] for one that is
// malformed or not signed by its node, and [ErrTooManyFacts].
//
// A newer fact of our own comes from a former life whose disk is lost: its
// version is taken over and gone beyond. When that happens a second time there
// is another live holder of our key, see [Facts.Conflicts].
func (f *Facts) Merge(fact Fact) (newer bool, err error) {
	f.mu.Lock()
	held, ok := f.facts[fact.ID]
	f.mu.Unlock()
	if ok && (fact.Version < held.Version || fact.equal(held)) {
		return false, nil // the usual case, by a wide margin: not worth checking a signature
	}
	if !ok && f.refuses(fact.ID) {
		return false, fmt.Errorf("merge fact of %s: %w", fact.ID, ErrTooManyFacts)
	}
	if err := fact.Verify(); err != nil {
		return false, fmt.Errorf("merge fact: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	held, ok = f.facts[fact.ID]
	switch {
	case ok && fact.Version < held.Version:
		return false, nil
	case ok && fact.Version == held.Version:
		if !bytes.Equal(fact.Body, held.Body) {
			f.conflictLocked(fact.ID)
		}
		return false, nil
	case !ok && len(f.facts) >= MaxFacts:
		return false, fmt.Errorf("merge fact of %s: %w", fact.ID, ErrTooManyFacts)
	}
	fact.Body, fact.Signature = bytes.Clone(fact.Body), bytes.Clone(fact.Signature)
	if fact.ID == f.id.ID() {
		return true, f.outrunLocked(held, fact)
	}
	f.facts[fact.ID] = fact
	f.dirty = true
	f.changed.Notify()
	return true, nil
}

// outrunLocked answers a version of our own fact that is ahead of ours.
func (f *Facts) outrunLocked(held, ahead Fact) error {
	if !f.published {
		return f.setOwnLocked(ahead)
	}
	f.outrun++
	if f.outrun > 1 {
		// Two holders that each go beyond the other would never end.
		f.conflictLocked(ahead.ID)
		return f.setOwnLocked(ahead)
	}
	return f.publishLocked(ahead.Version+1, held.Body)
}

func (f *Facts) conflictLocked(id peer.ID) {
	news := !f.inConflictLocked(id)
	f.conflicts[id] = time.Now()
	if news {
		f.changed.Notify()
	}
}

func (f *Facts) inConflictLocked(id peer.ID) bool {
	at, seen := f.conflicts[id]
	return seen && time.Since(at) < conflictMemory
}

// Conflicts returns the nodes whose key two live holders use (a cloned disk,
// history S6): of late their fact was seen with two bodies under one version, or,
// for this node itself, somebody else keeps publishing it. Nobody plans with them.
// Nothing tells when a conflict is over: the holders may happen not to cross for
// minutes, so it is remembered for longer.
func (f *Facts) Conflicts() []peer.ID {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]peer.ID, 0, len(f.conflicts))
	for id := range f.conflicts {
		if f.inConflictLocked(id) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Digest returns the version held of every node's fact.
func (f *Facts) Digest() map[peer.ID]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[peer.ID]uint64, len(f.facts))
	for id, fact := range f.facts {
		out[id] = fact.Version
	}
	return out
}

// Changed is closed at the next change of any fact or conflict.
func (f *Facts) Changed() <-chan struct{} { return f.changed.Changed() }

// Forget drops what is known of a node that left for good. The own fact stays.
func (f *Facts) Forget(id peer.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.facts[id]; !ok || id == f.id.ID() {
		return
	}
	delete(f.facts, id)
	delete(f.conflicts, id)
	f.dirty = true
	f.changed.Notify()
}

// Flush writes the facts of others to disk if any changed since the last time.
// They are a cache for the next cold start, so it is enough to call it now and
// then.
func (f *Facts) Flush() error {
	f.mu.Lock()
	if !f.dirty {
		f.mu.Unlock()
		return nil
	}
	others := f.allLocked(func(fact Fact) bool { return fact.ID != f.id.ID() })
	f.dirty = false
	f.mu.Unlock()

	raw, err := encodeFacts(others)
	if err == nil {
		err = WriteFile(filepath.Join(f.dir, knownFactsFile), raw, 0o600)
	}
	if err != nil {
		f.mu.Lock()
		f.dirty = true
		f.mu.Unlock()
		return fmt.Errorf("save known facts: %w", err)
	}
	return nil
}
