package k3s

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTokensAreNeitherInArgumentsNorEnvironmentNorLog(t *testing.T) {
	t.Setenv("K3S_TOKEN", "of-the-agent")
	t.Setenv("K3S_URL", "https://elsewhere:6443")
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	t.Setenv("MUSTER_ANYTHING", "x")
	t.Setenv("HTTP_PROXY", "http://proxy:3128")
	m := newMachine(t)
	var log syncBuffer
	opts := m.options()
	opts.Log = log.logger()
	d := newDriver(opts, fast)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	spec := with(joiningServer(), func(s *Spec) {
		s.Args, s.Env = []string{"--disable traefik"}, map[string]string{"GOGC": "50"}
	})
	require.NoError(t, d.Apply(t.Context(), spec))

	start := m.waitStarts(1)
	require.Equal(t, []string{"server", "--disable", "traefik"}, start.Args)
	env := strings.Join(start.Env, "\n")
	require.Contains(t, env, "GOGC=50")
	require.Contains(t, env, "HTTP_PROXY=http://proxy:3128")
	for _, name := range []string{"K3S_TOKEN", "K3S_URL", "NOTIFY_SOCKET", "MUSTER_ANYTHING"} {
		require.NotContains(t, env, name+"=")
	}
	require.NoError(t, d.Stop(t.Context()))
	requireNoSecrets(t, env+strings.Join(start.Args, " ")+log.String())
	info, err := os.Stat(m.path(configFile))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestK3sOutlivesTheAgentAndTheNextOneTakesItOver(t *testing.T) {
	m := newMachine(t)
	first := newDriver(m.options(), fast)
	require.NoError(t, first.Apply(t.Context(), worker()))
	pid := m.waitStarts(1).PID
	require.NoError(t, first.Close())
	require.True(t, alive(pid))

	second := m.driver(fast)
	m.eventually(func() bool { return second.State().Running }, "the new agent to see K3s")
	require.NoError(t, second.Apply(t.Context(), worker()))
	require.Len(t, m.starts(), 1, "it runs already")

	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.NotEqual(t, pid, m.waitStarts(2).PID, "the new agent keeps it running")
	require.NoError(t, second.Stop(t.Context()))
	require.NoFileExists(t, m.path("/run/muster/k3s.pid"))
	require.False(t, second.State().Running)
}

func TestAnAdoptedK3sIsStopped(t *testing.T) {
	m := newMachine(t)
	first := newDriver(m.options(), fast)
	require.NoError(t, first.Apply(t.Context(), worker()))
	pid := m.waitStarts(1).PID
	require.NoError(t, first.Close())

	second := m.driver(fast)
	require.NoError(t, second.Stop(t.Context()))
	require.False(t, alive(pid))
	require.Len(t, m.starts(), 1)
}

func TestARecycledPIDIsNeitherAdoptedNorKilled(t *testing.T) {
	for name, text := range map[string]string{
		"other start time": mustJSON(t, liveProcess{PID: os.Getpid(), Start: 1, Role: Agent}),
		"init":             mustJSON(t, liveProcess{PID: 1, Role: Agent}),
		"all of a group":   `{"pid":-5,"start":1,"role":"agent"}`,
		"no role":          mustJSON(t, liveProcess{PID: os.Getpid()}),
		"cut off":          `{"pid":12`,
		"empty":            ``,
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.write("/run/muster/k3s.pid", text)
			d := m.driver(fast)
			require.NoError(t, d.Stop(t.Context()))
			require.False(t, d.State().Running)
			require.NoError(t, d.Apply(t.Context(), worker()))
			m.waitStarts(1)
			require.NoError(t, d.Stop(t.Context()))
		})
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

func TestK3sIsRestartedWithGrowingPauses(t *testing.T) {
	m := newMachine(t)
	var log syncBuffer
	opts := m.options()
	opts.Log = log.logger()
	d := newDriver(opts, fast)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	require.NoError(t, os.WriteFile(filepath.Join(m.bin, "die"), nil, 0o600))
	require.NoError(t, d.Apply(t.Context(), worker()))
	m.waitStarts(5)
	for _, pause := range []string{"retry=10ms", "retry=20ms", "retry=40ms", "exit status 3"} {
		m.eventually(func() bool { return strings.Contains(log.String(), pause) }, "%s in the log", pause)
	}
	require.NotContains(t, log.String(), "retry=80ms", "the pause is bounded")

	require.NoError(t, os.Remove(filepath.Join(m.bin, "die")))
	m.eventually(func() bool { return d.State().Running && d.State().Version == "v1.36.3+k3s1" }, "it to live")
	require.NoError(t, d.Stop(t.Context()))
}

func TestApplyDuringThePauseDoesNotCutItShort(t *testing.T) {
	m := newMachine(t)
	timing := fast
	timing.restartFirst, timing.restartMax = time.Hour, time.Hour
	d := m.driver(timing)
	require.NoError(t, os.WriteFile(filepath.Join(m.bin, "die"), nil, 0o600))
	require.NoError(t, d.Apply(t.Context(), worker()))
	m.waitStarts(1)
	m.eventually(func() bool { return strings.Contains(d.State().Waiting, "not running") }, "its end to be noticed")
	for range 3 {
		require.NoError(t, d.Apply(t.Context(), worker()))
	}
	require.Len(t, m.starts(), 1)

	// But to stop, and to become something else, do not wait for it.
	require.NoError(t, os.Remove(filepath.Join(m.bin, "die")))
	require.NoError(t, d.Apply(t.Context(), joiningServer()))
	require.Equal(t, "server", m.waitStarts(2).Args[0])
	require.NoError(t, d.Stop(t.Context()))
}

func TestStopKillsWhatDoesNotEnd(t *testing.T) {
	m := newMachine(t)
	require.NoError(t, os.WriteFile(filepath.Join(m.bin, "stubborn"), nil, 0o600))
	timing := fast
	timing.stopGrace = 20 * time.Millisecond
	d := m.driver(timing)
	require.NoError(t, d.Apply(t.Context(), worker()))
	pid := m.waitStarts(1).PID
	require.NoError(t, d.Stop(t.Context()))
	require.False(t, alive(pid))
	require.NoError(t, d.Stop(t.Context()), "twice is fine")
}

// The shell that becomes K3s ends when nobody lets it go on, which is what
// happens when the agent dies before the PID is on disk.
func TestK3sThatIsNotOnDiskDoesNotStart(t *testing.T) {
	m := newMachine(t)
	// The PID file cannot be written: its name is taken.
	require.NoError(t, os.MkdirAll(m.path("/run/muster/k3s.pid/x"), 0o755))
	d := m.driver(fast)
	require.Error(t, d.Apply(t.Context(), worker()))
	require.Empty(t, m.starts())

	require.NoError(t, os.RemoveAll(m.path("/run/muster/k3s.pid")))
	require.NoError(t, d.Apply(t.Context(), worker()))
	m.waitStarts(1)
	require.NoError(t, d.Stop(t.Context()))
}

func TestAClosedDriverStartsNothing(t *testing.T) {
	m := newMachine(t)
	d := newDriver(m.options(), fast)
	require.NoError(t, d.Close())
	require.NoError(t, d.Close(), "twice is fine")
	require.ErrorContains(t, d.Apply(t.Context(), worker()), "closed")
	require.Empty(t, m.starts())
}

func TestTheLogIsCutWhileK3sWritesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k3s.log")
	require.NoError(t, rotateLog(path, 10), "no log yet")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer log.Close()
	say := func(text string) {
		_, err := log.WriteString(text)
		require.NoError(t, err)
	}
	say("short")
	require.NoError(t, rotateLog(path, 10))
	requireFile(t, path, "short")
	say(" and long")
	require.NoError(t, rotateLog(path, 10))
	say("new")
	requireFile(t, path, "new")
	requireFile(t, path+".1", "short and long")
}

func TestALongLogIsMovedAsideBeforeK3sStarts(t *testing.T) {
	m := newMachine(t)
	m.write("/var/log/k3s.log", "from before\n")
	timing := fast
	timing.maxLog = 1
	d := m.driver(timing)
	require.NoError(t, d.Apply(t.Context(), worker()))
	requireFile(t, m.path("/var/log/k3s.log.1"), "from before\n")
	require.NoError(t, d.Stop(t.Context()))
}

func TestTheLogIsLookedAtWhileK3sRuns(t *testing.T) {
	m := newMachine(t)
	timing := fast
	timing.maxLog, timing.logEvery = 1, time.Millisecond
	d := m.driver(timing)
	require.NoError(t, d.Apply(t.Context(), worker()))
	m.waitStarts(1)
	m.eventually(func() bool {
		text, err := os.ReadFile(m.path("/var/log/k3s.log.1"))
		return err == nil && strings.HasPrefix(string(text), "fake k3s")
	}, "what K3s wrote to be moved aside")
	require.NoError(t, d.Stop(t.Context()))
}

func requireFile(t *testing.T, path, want string) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, string(text))
}
