package p2p

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// factIdentity is the same for the same n in every run, so that vectors and
// transcripts stay.
func factIdentity(t require.TestingT, n byte) *Identity {
	id, err := newIdentity("", nil, identityRecord{Version: identityVersion, Seed: bytes.Repeat([]byte{n}, ed25519.SeedSize)})
	require.NoError(t, err)
	return id
}

func openFacts(t require.TestingT, dir string, id *Identity) *Facts {
	f, err := OpenFacts(dir, id)
	require.NoError(t, err)
	return f
}

func TestFactKeepsItsVersionOverARestart(t *testing.T) {
	dir, id := t.TempDir(), factIdentity(t, 1)
	f := openFacts(t, dir, id)
	require.NoError(t, f.Publish([]byte(`{"a":1}`)))
	require.NoError(t, f.Publish([]byte(`{"a":2}`)))

	f = openFacts(t, dir, id)
	own, ok := f.Get(id.ID())
	require.True(t, ok)
	require.EqualValues(t, 2, own.Version)
	require.NoError(t, f.Publish([]byte(`{"a":2}`)), "the same body")
	require.EqualValues(t, 2, f.Digest()[id.ID()])
	require.NoError(t, f.Publish([]byte(`{"a":3}`)))
	require.EqualValues(t, 3, f.Digest()[id.ID()])
}

func TestFactIsOnDiskBeforeAnybodySeesIt(t *testing.T) {
	dir, id := t.TempDir(), factIdentity(t, 1)
	f := openFacts(t, dir, id)
	require.NoError(t, f.Publish([]byte(`1`)))
	require.NoError(t, os.RemoveAll(dir))
	changed := f.Changed()
	require.Error(t, f.Publish([]byte(`2`)))
	require.EqualValues(t, 1, f.Digest()[id.ID()], "a version that is not on disk must not be seen")
	select {
	case <-changed:
		t.Fatal("announced a fact that is not on disk")
	default:
	}
}

func TestOnlyTheNodeItselfWritesItsFact(t *testing.T) {
	a, b := factIdentity(t, 1), factIdentity(t, 2)
	fa := openFacts(t, t.TempDir(), a)
	require.NoError(t, fa.Publish([]byte(`{"name":"a"}`)))
	good, _ := fa.Get(a.ID())

	for name, forge := range map[string]func(f *Fact){
		"body":         func(f *Fact) { f.Body = []byte(`{"name":"x"}`) },
		"version":      func(f *Fact) { f.Version++ },
		"other node":   func(f *Fact) { f.ID = b.ID() },
		"no signature": func(f *Fact) { f.Signature = nil },
		"version 0":    func(f *Fact) { f.Version = 0 },
		"last version": func(f *Fact) { f.Version = 1 << 63 },
		"not JSON":     func(f *Fact) { *f = sealFact(t, a, 9, []byte(`{`)) },
		"too long": func(f *Fact) {
			*f = sealFact(t, a, 9, []byte(`"`+strings.Repeat("x", MaxFactSize)+`"`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := openFacts(t, t.TempDir(), b)
			bad := good
			forge(&bad)
			newer, err := f.Merge(bad)
			require.ErrorIs(t, err, ErrBadFact)
			require.False(t, newer)
			require.Empty(t, f.All())
		})
	}
}

func sealFact(t require.TestingT, id *Identity, version uint64, body []byte) Fact {
	f := Fact{ID: id.ID(), Version: version, Body: body}
	sig, err := id.Sign(factContext, f.message())
	require.NoError(t, err)
	f.Signature = sig
	return f
}

func TestPublishRefusesWhatNobodyWouldTake(t *testing.T) {
	f := openFacts(t, t.TempDir(), factIdentity(t, 1))
	require.ErrorIs(t, f.Publish([]byte(`{`)), ErrBadFact)
	require.ErrorIs(t, f.Publish([]byte(`"`+strings.Repeat("x", MaxFactSize)+`"`)), ErrBadFact)
	require.Empty(t, f.All())
}

func TestFactsOfOthersSurviveARestart(t *testing.T) {
	dir, a, b := t.TempDir(), factIdentity(t, 1), factIdentity(t, 2)
	f := openFacts(t, dir, a)
	_, err := f.Merge(sealFact(t, b, 5, []byte(`{"known":1, "of a later release":[1,  2]}`)))
	require.NoError(t, err)
	require.NoError(t, f.Flush())

	got, ok := openFacts(t, dir, a).Get(b.ID())
	require.True(t, ok)
	require.Equal(t, `{"known":1, "of a later release":[1,  2]}`, string(got.Body), "byte for byte")

	require.NoError(t, os.WriteFile(filepath.Join(dir, knownFactsFile), []byte("damaged"), 0o600))
	require.Empty(t, openFacts(t, dir, a).All(), "a damaged cache is only an empty cache")
}

func TestLostVersionIsTakenBackFromPeersAndGoneBeyond(t *testing.T) {
	id := factIdentity(t, 1)
	former := sealFact(t, id, 57, []byte(`{"former":"life"}`))

	t.Run("published before it met a peer", func(t *testing.T) {
		f := openFacts(t, t.TempDir(), id)
		require.NoError(t, f.Publish([]byte(`{"new":"life"}`)))
		newer, err := f.Merge(former)
		require.NoError(t, err)
		require.True(t, newer)
		own, _ := f.Get(id.ID())
		require.EqualValues(t, 58, own.Version)
		require.Equal(t, `{"new":"life"}`, string(own.Body))
		require.NoError(t, own.Verify())
		require.Empty(t, f.Conflicts())
	})
	t.Run("met a peer before it published", func(t *testing.T) {
		dir := t.TempDir()
		f := openFacts(t, dir, id)
		_, err := f.Merge(former)
		require.NoError(t, err)
		require.EqualValues(t, 57, openFacts(t, dir, id).Digest()[id.ID()], "survives the next restart")
		require.NoError(t, f.Publish([]byte(`{"new":"life"}`)))
		require.EqualValues(t, 58, f.Digest()[id.ID()])
	})
}

func TestS6TwoHoldersOfOneKeyAreAConflict(t *testing.T) {
	twin, watcher := factIdentity(t, 1), factIdentity(t, 2)
	t.Run("a third node sees one version with two bodies", func(t *testing.T) {
		f := openFacts(t, t.TempDir(), watcher)
		_, err := f.Merge(sealFact(t, twin, 3, []byte(`"first"`)))
		require.NoError(t, err)
		changed := f.Changed()
		newer, err := f.Merge(sealFact(t, twin, 3, []byte(`"second"`)))
		require.NoError(t, err)
		require.False(t, newer)
		require.Equal(t, []peer.ID{twin.ID()}, f.Conflicts())
		<-changed
		f.Forget(twin.ID())
		require.Empty(t, f.Conflicts())
	})
	t.Run("it is over when one of them is long gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := openFacts(t, t.TempDir(), watcher)
			cross := func(version uint64) {
				for _, body := range []string{`"first"`, `"second"`} {
					_, err := f.Merge(sealFact(t, twin, version, []byte(body)))
					require.NoError(t, err)
				}
			}
			cross(3)
			time.Sleep(conflictMemory - time.Second)
			cross(4)
			time.Sleep(conflictMemory - time.Second)
			require.Equal(t, []peer.ID{twin.ID()}, f.Conflicts())
			time.Sleep(time.Second)
			require.Empty(t, f.Conflicts())
			changed := f.Changed()
			cross(5)
			require.Equal(t, []peer.ID{twin.ID()}, f.Conflicts())
			<-changed
		})
	})
	t.Run("the twins do not outrun each other for ever", func(t *testing.T) {
		a, b := openFacts(t, t.TempDir(), twin), openFacts(t, t.TempDir(), twin)
		require.NoError(t, a.Publish([]byte(`"a"`)))
		require.NoError(t, b.Publish([]byte(`"b"`)))
		require.NoError(t, b.Publish([]byte(`"bb"`)))
		rounds := 0
		for moved := true; moved; rounds++ {
			require.Less(t, rounds, 10, "a war of versions")
			moved = false
			for _, way := range [][2]*Facts{{b, a}, {a, b}} {
				fact, _ := way[0].Get(twin.ID())
				newer, err := way[1].Merge(fact)
				require.NoError(t, err)
				moved = moved || newer
			}
		}
		require.NotEmpty(t, append(a.Conflicts(), b.Conflicts()...), "one of them says so")
	})
}

func TestForgottenFactIsGoneButOwnStays(t *testing.T) {
	a, b := factIdentity(t, 1), factIdentity(t, 2)
	f := openFacts(t, t.TempDir(), a)
	require.NoError(t, f.Publish([]byte(`1`)))
	_, err := f.Merge(sealFact(t, b, 1, []byte(`2`)))
	require.NoError(t, err)
	f.Forget(a.ID())
	f.Forget(b.ID())
	require.Len(t, f.All(), 1)
	require.Equal(t, a.ID(), f.All()[0].ID)
}

func TestFactsAreBounded(t *testing.T) {
	f := openFacts(t, t.TempDir(), factIdentity(t, 1))
	for i := range MaxFacts {
		f.facts[peer.ID(fmt.Sprint("node ", i))] = Fact{Version: 1}
	}
	_, err := f.Merge(sealFact(t, factIdentity(t, 2), 1, []byte(`1`)))
	require.ErrorIs(t, err, ErrTooManyFacts)
}

func TestALiarCannotFillTheFactsWithNodesThatItInvents(t *testing.T) {
	f := openFacts(t, t.TempDir(), factIdentity(t, 1))
	member, stranger := factIdentity(t, 2), factIdentity(t, 3)
	f.Expect(func(id peer.ID) bool { return id == member.ID() || id == factIdentity(t, 1).ID() })
	for i := range maxUnexpected - 1 {
		f.facts[peer.ID(fmt.Sprint("node ", i))] = Fact{Version: 1}
	}
	_, err := f.Merge(sealFact(t, stranger, 1, []byte(`1`)))
	require.NoError(t, err, "a newcomer's fact may be ahead of what let it in")
	_, err = f.Merge(sealFact(t, factIdentity(t, 4), 1, []byte(`1`)))
	require.ErrorIs(t, err, ErrTooManyFacts)
	_, err = f.Merge(sealFact(t, stranger, 2, []byte(`2`)))
	require.NoError(t, err, "what is held is kept up to date")
	newer, err := f.Merge(sealFact(t, member, 1, []byte(`1`)))
	require.NoError(t, err)
	require.True(t, newer, "a member always has its place")
}

func TestFactsConvergeInWhateverOrderTheyArrive(t *testing.T) {
	ids := []*Identity{factIdentity(t, 1), factIdentity(t, 2), factIdentity(t, 3)}
	root := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		dirs, nodes := make([]string, len(ids)), make([]*Facts, len(ids))
		for i, id := range ids {
			dirs[i] = filepath.Join(root, fmt.Sprint(run), fmt.Sprint(i))
			nodes[i] = openFacts(t, dirs[i], id)
		}
		var flight []Fact
		highest := make([]uint64, len(ids))
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			i := rapid.IntRange(0, len(ids)-1).Draw(t, "node")
			switch rapid.SampledFrom([]string{"publish", "send", "deliver", "restart"}).Draw(t, "step") {
			case "publish":
				require.NoError(t, nodes[i].Publish(fmt.Appendf(nil, "%d", rapid.IntRange(0, 3).Draw(t, "body"))))
			case "send":
				flight = append(flight, nodes[i].All()...)
			case "deliver":
				if len(flight) > 0 { // not removed: the network may say it twice
					_, err := nodes[i].Merge(rapid.SampledFrom(flight).Draw(t, "fact"))
					require.NoError(t, err)
				}
			case "restart":
				nodes[i] = openFacts(t, dirs[i], ids[i])
			}
			own := nodes[i].Digest()[ids[i].ID()]
			require.GreaterOrEqual(t, own, highest[i], "own version went back")
			highest[i] = own
		}
		for range 2 {
			for _, from := range nodes {
				for _, fact := range from.All() {
					for _, to := range nodes {
						_, err := to.Merge(fact)
						require.NoError(t, err)
					}
				}
			}
		}
		for _, node := range nodes {
			require.Equal(t, nodes[0].Digest(), node.Digest())
			require.Empty(t, node.Conflicts())
		}
	})
}

type factVector struct {
	Seed    byte   `json:"seed"`
	Version uint64 `json:"version"`
	Body    string `json:"body"`
	Wire    string `json:"wire"`
}

// The vectors are the wire format: a release that cannot read them cannot talk
// to the one before.
func TestFactVectors(t *testing.T) {
	const path = "testdata/facts.json"
	var vectors []factVector
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &vectors))
	require.NotEmpty(t, vectors)
	for _, v := range vectors {
		id := factIdentity(t, v.Seed)
		wire, err := sealFact(t, id, v.Version, []byte(v.Body)).MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, v.Wire, hex.EncodeToString(wire))
		var back Fact
		require.NoError(t, back.UnmarshalBinary(wire))
		require.NoError(t, back.Verify())
		require.Equal(t, v.Body, string(back.Body))
	}
}

func FuzzFact(f *testing.F) {
	id := factIdentity(f, 1)
	for _, body := range []string{`1`, `{"a":"b"}`} {
		wire, err := sealFact(f, id, 7, []byte(body)).MarshalBinary()
		require.NoError(f, err)
		f.Add(wire)
		list, err := encodeFacts([]Fact{sealFact(f, id, 7, []byte(body)), sealFact(f, id, 8, []byte(body))})
		require.NoError(f, err)
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		facts, _ := decodeFacts(raw)
		var one Fact
		if one.UnmarshalBinary(raw) == nil {
			facts = append(facts, one)
		}
		for _, fact := range facts {
			again, err := fact.MarshalBinary()
			require.NoError(t, err, "what was read can be written")
			var back Fact
			require.NoError(t, back.UnmarshalBinary(again))
			require.Equal(t, fact, back)
		}
	})
}
