package scenario

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/lab"
)

// firstVersion is the commit with which a site could first be formed as the README says: today's agents get on with its.
const firstVersion = "6c0ff15"

// olderMuster builds the agent of another commit of this repository.
func olderMuster(t *testing.T, commit string) string {
	t.Helper()
	dir := t.TempDir()
	archive := exec.CommandContext(t.Context(), "git", "-C", filepath.Join("..", ".."), "archive", "--output", filepath.Join(dir, "source.tar"), commit)
	archive.Stderr = os.Stderr
	require.NoError(t, archive.Run(), "the history has to be there, back to %s", commit)
	unpack := exec.CommandContext(t.Context(), "tar", "-x", "-f", "source.tar")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X github.com/muster-edge/muster/node.Version="+commit, "-o", "muster", "./cmd/muster")
	for _, c := range []*exec.Cmd{unpack, build} {
		c.Dir = dir
		out, err := c.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return filepath.Join(dir, "muster")
}

// A site of older agents moves to today's one node after another, as in a rolling
// upgrade: nobody loses what it was, what one version decides the other reads, and
// a node that goes back to the older version is still a member.
func TestASiteMovesFromTheFirstVersionToTodaysAndANodeGoesBack(t *testing.T) {
	t.Parallel()
	older := map[string]string{}
	first := olderMuster(t, firstVersion)
	for _, name := range []string{"n1", "n2", "n3", "n4"} {
		older[name] = first
	}
	config := newConfig(t)
	config.Masters, config.MinimumNodes, config.DNS = 2, 4, true
	s := site(t, 4, config, func(o *lab.Options) { o.NodeBinary = older })
	s.waitReady(readyTime)
	before := s.standings()
	require.Contains(t, s.run("n1", "muster", "--version"), firstVersion)

	decided := 0
	decide := func(by string) {
		t.Helper()
		decided++
		record := "v" + strings.Repeat("i", decided)
		s.run(by, "muster", "dns", "set", record, "192.0.2.1")
		for _, name := range s.names() {
			s.eventually(soonTime, record+" on "+name, func() error {
				_, err := s.Exec(t.Context(), name, "getent", "ahostsv4", record)
				return err
			})
		}
	}
	decide("n1")
	newcomer, err := s.Add(t.Context(), 1) // today's enrols with the older ones
	require.NoError(t, err)
	s.waitReady(readyTime)
	before[newcomer[0]] = s.standings()[newcomer[0]]
	move := func(name, binary string) {
		t.Helper()
		require.NoError(t, s.Kill(t.Context(), name))
		require.NoError(t, s.SetBinary(t.Context(), binary, name))
		require.NoError(t, s.Start(t.Context(), name))
		s.waitReady(readyTime)
		require.Equal(t, before, s.standings(), "after %s moved", name)
	}
	masters := s.masters()
	for name := range older {
		move(name, "")
		decide(masters[0])
	}
	move(masters[0], first)
	decide(masters[1])
	decide(masters[0])
	s.waitKubeReady(readyTime)
	s.requireOneSite(5)
}
