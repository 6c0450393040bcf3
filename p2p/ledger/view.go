package ledger

import (
	"sort"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Entry is one key of the ledger.
type Entry struct {
	Key    string
	Value  []byte  // shared with every other reader: never write into it
	Index  uint64  // index of the last change
	Author peer.ID // who proposed the last change
}

// View is the ledger at one index. It never changes, costs nothing to take, and
// is what the planners are given.
type View struct {
	index   uint64
	entries map[string]Entry // never written after the View was made
}

// NewView makes a View by hand, for tests of planners.
func NewView(index uint64, entries ...Entry) View {
	m := make(map[string]Entry, len(entries))
	for _, e := range entries {
		m[e.Key] = e
	}
	return View{index: index, entries: m}
}

// Index returns the index of the last decision in the View.
func (v View) Index() uint64 { return v.index }

// Get returns the entry of a key.
func (v View) Get(key string) (Entry, bool) {
	e, ok := v.entries[key]
	return e, ok
}

// IndexOf returns what a Compare on the key must say: the index of its last
// change, 0 if it does not exist.
func (v View) IndexOf(key string) uint64 { return v.entries[key].Index }

// List returns all entries whose key begins with prefix, sorted by key.
func (v View) List(prefix string) []Entry {
	var out []Entry
	for k, e := range v.entries {
		if strings.HasPrefix(k, prefix) {
			out = append(out, e)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out
}
