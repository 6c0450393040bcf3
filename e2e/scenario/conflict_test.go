package scenario

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/lab"
)

// Two sites with one token were founded while they could not see each other. When
// they meet, both say so, neither changes, and a newcomer joins neither, until an
// operator ends one of them.
func TestS28TwoSitesWithOneTokenMeetAndNeitherChanges(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.NoK3s = true
	s := site(t, 2, config)
	older := s.names()
	s.waitReady(formTime)
	before, sites := s.standings(), map[string]string{"n1": s.siteID("n1")}
	require.NoError(t, s.Kill(t.Context(), older...))
	younger, err := s.Add(t.Context(), 2)
	require.NoError(t, err)
	s.waitReady(formTime, younger...)
	sites["n3"] = s.siteID("n3")
	for _, name := range younger {
		before[name] = s.standings()[name]
	}
	require.NotEqual(t, sites["n1"], sites["n3"])

	require.NoError(t, s.Start(t.Context(), older...))
	s.waitReady(formTime, older...)
	for name, other := range map[string]string{"n1": "n3", "n2": "n3", "n3": "n1", "n4": "n1"} {
		s.waitWhy(soonTime, name, "SiteConflict", sites[other])
	}
	newcomer, err := s.Add(t.Context(), 1)
	require.NoError(t, err)
	s.waitWhy(soonTime, newcomer[0], "SiteConflict", "joins none of them")

	// What one decides is nothing to the other.
	s.run(s.masters()[0], "muster", "dns", "set", "older", "192.0.2.1")
	hold(t, 5*time.Second)
	rows, err := s.ledger("n3", "dns/older")
	require.NoError(t, err)
	require.Empty(t, rows)
	now := s.standings()
	require.Empty(t, now[newcomer[0]].Role, "the newcomer's role")
	for name, was := range before {
		require.Equal(t, was, now[name])
	}
	for name, site := range sites {
		require.Equal(t, site, s.siteID(name))
	}

	// The younger one is ended by hand: the newcomer joins what is left, and so do
	// the wiped ones.
	require.NoError(t, s.Wipe(t.Context(), younger...))
	s.waitReady(formTime, newcomer...)
	require.NoError(t, s.Start(t.Context(), younger...))
	s.waitReady(formTime)
	s.requireOneSite(5)
	require.Equal(t, sites["n1"], s.siteID("n3"))
	s.eventually(soonTime, "the conflict is over", func() error {
		for _, name := range s.names() {
			if why, err := s.Why(t.Context(), name); err != nil || strings.Contains(why, "SiteConflict") {
				return fmt.Errorf("%s: %s (%w)", name, why, err)
			}
		}
		return nil
	})
}

// Who has a leaked token can found a second site in sight, and so keep newcomers out
// of the first. Another token ends that for the site that takes it.
func TestS28AReplacedTokenEndsTheConflict(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.NoK3s, config.MinimumNodes = true, 1
	s := site(t, 1, config)
	s.waitReady(formTime)
	require.NoError(t, s.Kill(t.Context(), "n1"))
	rival, err := s.Add(t.Context(), 1)
	require.NoError(t, err)
	s.waitReady(formTime, rival...)
	require.NoError(t, s.Start(t.Context(), "n1"))
	s.waitWhy(soonTime, "n1", "SiteConflict")

	config.Token = strings.TrimSpace(s.run("n1", "muster", "token", "rotate"))
	s.eventually(soonTime, "neither sees another site", func() error {
		for _, name := range s.names() {
			if why, err := s.Why(t.Context(), name); err != nil || strings.Contains(why, "SiteConflict") {
				return fmt.Errorf("%s: %s (%w)", name, why, err)
			}
		}
		return nil
	})
	newcomer, err := s.Add(t.Context(), 1) // with the old token, for a moment
	require.NoError(t, err)
	require.NoError(t, s.Wipe(t.Context(), newcomer...))
	require.NoError(t, s.Configure(t.Context(), newcomer[0], config.yaml(t)))
	require.NoError(t, s.Start(t.Context(), newcomer...))
	s.waitReady(formTime, newcomer...)
	require.Equal(t, s.siteID("n1"), s.siteID(newcomer[0]))
	require.NotEqual(t, s.siteID("n1"), s.siteID(rival[0]))
}

// A founder that gave its word to masters that are gone for good can neither found
// nor give up by itself. It says which command takes the word back; then it and
// others found, and the lost masters, if they do come back, join what there is.
func TestAFoundingWhoseMastersAreGoneIsAbandonedByAnOperator(t *testing.T) {
	t.Parallel()
	config := haSite(t)
	config.NoK3s = true
	s := site(t, 3, config)
	// Slow links keep the certificate away for longer than the blow takes.
	delay := 200 * time.Millisecond
	for _, name := range s.names() {
		require.NoError(t, s.Link(t.Context(), name, lab.LinkChange{Delay: &delay}))
	}
	_, err := s.Add(t.Context(), 1)
	require.NoError(t, err)
	agents := s.agents()
	const step = "a founder that promised and is no master"
	bound := s.first(step, genesisSteps[step])
	lost := s.others(bound)
	s.strikeDown(agents, lost...)
	require.Nil(t, s.founding(bound).Founded, "the blow came too late")

	why := s.waitWhy(soonTime, bound, "muster site abandon")
	t.Log(why)
	require.Contains(t, s.refused(4, bound, "muster", "site", "abandon", "--site", "another", "--yes"), "not to another")
	require.Contains(t, s.run(bound, "muster", "site", "abandon"), "Nothing was changed")
	_, still := s.founding(bound).promised()
	require.True(t, still, "a plan changes nothing")
	newcomers, err := s.Add(t.Context(), 3)
	require.NoError(t, err)
	require.Contains(t, s.run(bound, "muster", "site", "abandon", "--yes"), "Done")
	s.waitReady(formTime, append(newcomers, bound)...)
	require.Contains(t, s.refused(4, bound, "muster", "site", "abandon"), "member")

	none := time.Duration(0)
	for _, name := range lost {
		require.NoError(t, s.Link(t.Context(), name, lab.LinkChange{Delay: &none}))
	}
	require.NoError(t, s.Start(t.Context(), lost...))
	s.waitReady(formTime)
	s.requireOneSite(7)
}
