package soak

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func rows(pairs ...string) (all []decision) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, decision{pairs[i], json.RawMessage(pairs[i+1])})
	}
	return all
}

func TestBrokenPromisesAreSeen(t *testing.T) {
	good := rows("address/a", `{"addr":"10.1.0.1"}`, "name/a", `{"name":"one"}`, "role/a", `{"role":"master/ha"}`)
	for name, bad := range map[string][]decision{
		"another address":    rows("address/a", `{"addr":"10.1.0.2"}`),
		"an address twice":   rows("address/b", `{"addr":"10.1.0.1"}`),
		"another name":       rows("address/a", `{"addr":"10.1.0.1"}`, "name/a", `{"name":"two"}`),
		"a name twice":       rows("address/a", `{"addr":"10.1.0.1"}`, "name/a", `{"name":"one"}`, "name/b", `{"name":"one"}`),
		"too many masters":   rows("role/a", `{"role":"master/ha"}`, "role/b", `{"role":"master/ha"}`, "role/c", `{"role":"master/ha"}`, "role/d", `{"role":"master/clusterinit"}`),
		"a record not JSON":  rows("address/a", `nothing`),
		"a record of a kind": rows("role/a", `[]`),
	} {
		t.Run(name, func(t *testing.T) {
			s := &soak{seen: newHistory()}
			require.NoError(t, s.judge(good))
			require.NoError(t, s.judge(good))
			var broken *brokenPromise
			require.True(t, errors.As(s.judge(bad), &broken))
		})
	}
}

func TestALeakIsWhatGrewBeyondWhatComesAndGoes(t *testing.T) {
	before := usage{Goroutines: 150, Files: 40, Memory: 45e6, State: 1 << 20, StateFiles: 20}
	require.Empty(t, leaks(before, before))
	now := before
	now.Goroutines += 5
	require.Empty(t, leaks(before, now))
	now = usage{Goroutines: 1000, Files: 400, Memory: 450e6, State: 1 << 30, StateFiles: 200}
	require.Len(t, leaks(before, now), 5)
}
