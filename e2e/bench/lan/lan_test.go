package lan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func namespaces(t *testing.T, prefix string) []string {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	require.NoError(t, err)
	var found []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), prefix) {
			found = append(found, entry.Name())
		}
	}
	return found
}

func build(t *testing.T, label string, nodes int) *LAN {
	l, err := New(t.Context(), label, nodes)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func TestNodesOfALANReachEachOther(t *testing.T) {
	l := build(t, "reach", 3)
	require.Equal(t, 3, l.Nodes())
	for i := 2; i <= 3; i++ {
		printed, err := l.Node(1).Command(t.Context(), "ping", "-c", "1", "-w", "10", l.Node(i).Address().String()).CombinedOutput()
		require.NoError(t, err, string(printed))
	}
	dev, err := l.Node(1).Read("dev")
	require.NoError(t, err)
	require.Contains(t, string(dev), Link+":")
}

func TestClosedLANLeavesNeitherNamespaceNorProcess(t *testing.T) {
	l, err := New(t.Context(), "close", 2)
	require.NoError(t, err)
	process, err := Start("sleeper", l.Node(2).Command(context.Background(), "sleep", "3600"), filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	require.NotEmpty(t, namespaces(t, l.name))

	require.NoError(t, l.Close())
	<-process.Done()
	require.Empty(t, namespaces(t, l.name))
	require.NoError(t, l.Close(), "closing twice is harmless")
}

func TestLANThatCannotBeBuiltLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := New(ctx, "cancelled", 2)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, namespaces(t, Name("cancelled")))

	_, err = New(t.Context(), "huge", 251)
	require.ErrorContains(t, err, "251 nodes, want 1 to 250")
}

func TestSweepRemovesOnlyWhatADeadDriverLeft(t *testing.T) {
	dead := exec.Command("true")
	require.NoError(t, dead.Run())
	left := fmt.Sprintf("%s%d-test-n1", prefix, dead.Process.Pid)
	require.NoError(t, ip(t.Context(), "netns add "+left))
	l := build(t, "live", 1)

	require.NoError(t, Sweep())
	require.Empty(t, namespaces(t, left))
	require.NotEmpty(t, namespaces(t, l.name))
}

func TestOwnerIsReadFromTheNameOnly(t *testing.T) {
	pid, ok := Owner(Name("x"))
	require.True(t, ok)
	require.Equal(t, os.Getpid(), pid)
	for _, name := range []string{"", "mb-", "mb-12", "mb-x-y", "mb--1-y", "mb-0-y", "other-12-y"} {
		_, ok := Owner(name)
		require.False(t, ok, name)
	}
}

// A thread that stays in a node's namespace would take the process with it when the node is removed.
func TestInsideKeepsTheProcessOutside(t *testing.T) {
	l := build(t, "inside", 1)
	home, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			err := Inside(l.Node(1).Namespace(), func() error {
				links, err := net.Interfaces()
				if err == nil && len(links) != 2 {
					err = fmt.Errorf("%d links, want lo and %s", len(links), Link)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	now, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	require.Equal(t, home, now)
}

func TestInsideOfNoNamespaceIsAnError(t *testing.T) {
	called := func() error { return errors.New("must not be called") }
	require.ErrorIs(t, Inside(directory+"mb-none", called), os.ErrNotExist)
	require.ErrorContains(t, Inside("/proc/self/status", called), "enter network namespace /proc/self/status")
}

func TestStopKillsAProcessThatIgnoresTheRequest(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	process, err := Start("stubborn", exec.Command("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"), log)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return process.Tail() == "deaf" }, time.Minute, 10*time.Millisecond)
	gone, err := process.Exited()
	require.NoError(t, err)
	require.False(t, gone)

	require.NoError(t, process.Stop())
	gone, err = process.Exited()
	require.True(t, gone)
	require.ErrorContains(t, err, "stubborn: signal: killed: deaf")
	require.NoError(t, process.Stop(), "stopping twice is harmless")
}

func TestExitIsToldWithTheLastWords(t *testing.T) {
	dir := t.TempDir()
	process, err := Start("failing", exec.Command("sh", "-c", "echo no tun device >&2; exit 3"), filepath.Join(dir, "log"))
	require.NoError(t, err)
	<-process.Done()
	gone, err := process.Exited()
	require.True(t, gone)
	require.EqualError(t, err, "failing: exit status 3: no tun device")

	_, err = Start("absent", exec.Command("/no/such/program"), filepath.Join(dir, "log"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Start("unlogged", exec.Command("true"), filepath.Join(dir, "no", "log"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTailIsShort(t *testing.T) {
	require.Equal(t, "2 | 3 | 4 | 5 | 6", Tail([]byte("1\n2\n3\n4\n5\n6\n")))
	require.Len(t, Tail([]byte(strings.Repeat("x", 10_000))), 800)
}
