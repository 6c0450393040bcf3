package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

func TestOptionsThatCannotWorkAreRefusedBeforeAnythingIsWritten(t *testing.T) {
	for name, opts := range map[string]Options{
		"too many nodes":         {Nodes: MaxNodes + 1},
		"negative nodes":         {Nodes: -1},
		"bad bridge":             {Bridge: "Büro"},
		"long bridge":            {Bridge: "abcdefghijklmnop"},
		"config of no node":      {Nodes: 2, NodeConfig: map[string][]byte{"n3": nil}},
		"config of a wrong name": {NodeConfig: map[string][]byte{"n01": nil}},
		"unknown goal":           {Until: "done"},
		"negative timeout":       {Timeout: -time.Second},
		"no such k3s":            {K3s: "/no/such/k3s"},
		"k3s is no program":      {K3s: "parse_test.go"},
		"relative bind":          {Binds: map[string]string{"/x": "y"}},
	} {
		t.Run(name, func(t *testing.T) {
			opts.Dir = filepath.Join(t.TempDir(), "lab")
			_, err := New(opts)
			require.ErrorIs(t, err, ErrUsage)
			_, err = os.Stat(opts.Dir)
			require.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

func TestOpenWithoutALabSaysWhatToType(t *testing.T) {
	_, err := Open(t.TempDir())
	require.ErrorIs(t, err, ErrNotUp)
	require.ErrorContains(t, err, "muster lab up")
}

func TestPartitionsAreReadAsTheCommandLineWritesThem(t *testing.T) {
	groups, err := ParsePartition("n1, n2|n3|n10")
	require.NoError(t, err)
	require.Equal(t, [][]string{{"n1", "n2"}, {"n3"}, {"n10"}}, groups)
	for _, text := range []string{"", "n1", "n1|", "|n1", "n1,|n2", "n1|x", "n0|n1", "n1|n999"} {
		_, err := ParsePartition(text)
		require.ErrorIs(t, err, ErrUsage, text)
	}
}

func FuzzParsePartition(f *testing.F) {
	f.Add("n1,n2|n3")
	f.Add("n1|n1||,")
	f.Fuzz(func(t *testing.T, text string) {
		groups, err := ParsePartition(text)
		if err != nil {
			require.Nil(t, groups)
			return
		}
		require.GreaterOrEqual(t, len(groups), 2)
		for _, group := range groups {
			require.NotEmpty(t, group)
		}
	})
}

func TestClaimsOfOtherProgramsAreNotLabs(t *testing.T) {
	c, ok := parseClaim("@muster-lab/net/57/office")
	require.True(t, ok)
	require.Equal(t, claim{subnet: 57, bridge: "office", socket: "@muster-lab/net/57/office"}, c)
	for _, socket := range []string{"", "/run/x", "@muster-lab/lock", "@muster-lab/net/", "@muster-lab/net/300/", "@muster-lab/net/x/y", "@muster-lab/net/7"} {
		_, ok := parseClaim(socket)
		require.False(t, ok, socket)
	}
}

func TestALabTakesASubnetThatNobodyRuns(t *testing.T) {
	first, err := freeSubnet("/some/dir", nil)
	require.NoError(t, err)
	second, err := freeSubnet("/some/dir", []claim{{subnet: first}})
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	var all []claim
	for i := range 255 {
		all = append(all, claim{subnet: i})
	}
	_, err = freeSubnet("/some/dir", all)
	require.Error(t, err)
}

func TestStepsAreJudgedByANodesOwnRow(t *testing.T) {
	self, peer, lost := Row{Path: "self"}, Row{Path: "direct"}, Row{Path: "none"}
	member := Row{Path: "self", Role: "worker", Address: "10.1.0.1"}
	ready := member
	ready.Ready = true
	for name, c := range map[string]struct {
		rows []Row
		want []Until
	}{
		"nobody":                   {nil, nil},
		"others only":              {[]Row{peer, peer}, nil},
		"alone":                    {[]Row{self}, nil},
		"both":                     {[]Row{peer, self}, []Until{UntilSeen}},
		"other is out of reach":    {[]Row{self, lost}, nil},
		"role, other out of reach": {[]Row{member, lost}, []Until{UntilRoles}},
		"ready":                    {[]Row{ready, peer}, []Until{UntilSeen, UntilRoles, UntilReady}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, reached(c.rows, 2)) })
	}
}

func TestARecycledPIDIsNeverSignalled(t *testing.T) {
	sleeper := exec.Command("sleep", "1000")
	require.NoError(t, sleeper.Start())
	p, err := identify(sleeper.Process.Pid)
	require.NoError(t, err)
	require.True(t, p.alive())

	earlier := process{PID: p.PID, Start: p.Start - 1}
	require.False(t, earlier.alive())
	require.ErrorIs(t, earlier.signal(15), os.ErrProcessDone)
	require.NoError(t, earlier.kill(t.Context()))
	require.True(t, p.alive())

	require.NoError(t, p.kill(t.Context()))
	require.False(t, p.alive())
	require.NoError(t, p.kill(t.Context()), "a second time")
	require.Error(t, sleeper.Wait()) // reaped already
}

func TestCommandsOnOneLabTakeTurns(t *testing.T) {
	l := labUp(t, Options{Nodes: 2})
	var commands errgroup.Group
	for range 3 {
		commands.Go(func() error { return l.Restart(t.Context()) })
		commands.Go(func() error { return l.Kill(t.Context(), "n2") })
	}
	require.NoError(t, commands.Wait())
	require.NoError(t, l.Start(t.Context()))
	require.Equal(t, 2, running(l))
}

func TestHardwareIDIsAUUID(t *testing.T) {
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, newHardwareID())
	require.NotEqual(t, newHardwareID(), newHardwareID())
	require.False(t, strings.Contains(newHardwareID(), " "))
}
