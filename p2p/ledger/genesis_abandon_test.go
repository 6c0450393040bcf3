package ledger

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// soleMaster is a site of A, B and C that A alone would vote for, and A gone with
// B's and C's promises in its hands.
func soleMaster(t *testing.T) (*sim, Abandonment) {
	s := newSim(t, "ABC")
	s.masters = 1
	s.tick("A")
	for len(s.nodes["C"].attempts) == 0 || len(s.nodes["B"].attempts) == 0 {
		s.deliver(0, false, -1)
	}
	s.kill("A")
	s.flight = nil
	s.calm(2 * simTicks.Stall)
	require.Empty(t, s.founded)
	require.Empty(t, s.aborted)
	b, err := s.nodes["B"].blocked()
	require.NoError(t, err)
	require.Equal(t, []string{simID("A")}, b.Away)
	require.Contains(t, strings.Join(s.nodes["B"].Waiting(nil), "\n"), "muster site abandon")
	return s, b
}

func (s *sim) abandon(t *testing.T, name, site string) {
	t.Helper()
	require.NoError(t, s.nodes[name].abandon(site))
	s.carryOut(name, -1)
}

func TestS2AFoundingWhoseOnlyMasterIsGoneIsAbandonedAndSearchedAnew(t *testing.T) {
	s, b := soleMaster(t)
	s.abandon(t, "B", b.Site)
	require.Nil(t, s.nodes["B"].bound())
	s.kill("B") // and a power cut does not bring the promise back
	s.start("B")
	require.True(t, s.nodes["B"].abandoned(b.Site))
	s.abandon(t, "C", b.Site)
	s.views["B"], s.views["C"] = []string{"B", "C"}, []string{"B", "C"}
	s.calm(4 * simTicks.Propose)
	require.Len(t, s.founded, 1)
	for site, c := range s.founded {
		require.NotEqual(t, b.Site, site)
		require.Equal(t, []string{simID("B"), simID("C")}, c.Genesis.Founders)
	}
}

func TestS2AMasterThatReturnsDoesNotTakeBackWhoAbandonedItsFounding(t *testing.T) {
	s, b := soleMaster(t)
	s.abandon(t, "B", b.Site)
	before := s.disks["B"]
	s.views["B"] = nil
	s.start("A")
	s.calm(simTicks.Stall)
	require.NotContains(t, s.founded, b.Site)
	require.Contains(t, s.aborted, b.Site, "A gives it up, as B refuses it")
	if c, founded := s.nodes["B"].Founded(); founded {
		require.NotEqual(t, b.Site, c.Genesis.Site, "a new attempt is free to have B in it")
	}
	var then, now foundingState
	require.NoError(t, json.Unmarshal(before, &then))
	require.NoError(t, json.Unmarshal(s.disks["B"], &now))
	require.Equal(t, then.Abandoned, now.Abandoned)
}

func TestAbandoningIsRefusedWhereTheFoundingEndsByItself(t *testing.T) {
	s := newSim(t, "ABC") // three masters
	s.tick("A")
	for len(s.nodes["B"].attempts) == 0 {
		s.deliver(0, false, -1)
	}
	s.kill("A")
	s.flight = nil
	s.tick("B")
	_, err := s.nodes["B"].blocked()
	require.ErrorIs(t, err, ErrFoundingGoesOn, "B and C can give it up")
	require.ErrorIs(t, s.nodes["B"].abandon(s.nodes["B"].bound().Genesis.Site), ErrFoundingGoesOn)
	_, err = s.nodes["C"].blocked()
	require.ErrorIs(t, err, ErrNothingPromised)

	founded := newSim(t, "ABC")
	founded.calm(1)
	_, err = founded.nodes["B"].blocked()
	require.ErrorIs(t, err, ErrNothingPromised, "a founder of a site has nothing to abandon")

	late, b := soleMaster(t)
	require.ErrorIs(t, late.nodes["B"].abandon("0000000000000099"), ErrNothingPromised, "the operator has seen another attempt")
	require.NotEmpty(t, b.Site)
}
