package k3s

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TestMain is also the K3s, and the containerd shim, that the tests start: the
// test binary under another name.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "k3s":
		fakeK3s(filepath.Dir(os.Args[0]), os.Args[1:])
	case "containerd-shim-runc-v2":
		fakeShim(os.Args[1:])
	default:
		// The race detector has every process sleep for a second when it ends.
		if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
			panic(err)
		}
		goleak.VerifyTestMain(m)
	}
}

// fakeStart is what a fake K3s notes of each start.
type fakeStart struct {
	PID  int
	Args []string
	Env  []string
}

// fakeK3s lives until SIGTERM. The files "die" and "stubborn" in its directory
// make it end at once and ignore SIGTERM.
func fakeK3s(dir string, args []string) {
	if args[0] == "--version" {
		appendLine(filepath.Join(dir, "asked"), "version")
		fmt.Println("k3s version v1.36.3+k3s1 (abcdef12)\ngo version go1.26.0")
		return
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	note, err := json.Marshal(fakeStart{PID: os.Getpid(), Args: args, Env: os.Environ()})
	if err != nil {
		panic(err)
	}
	fmt.Println("fake k3s", args)
	appendLine(filepath.Join(dir, "starts"), string(note))
	if _, err := os.Stat(filepath.Join(dir, "die")); err == nil {
		os.Exit(3)
	}
	for range term {
		if _, err := os.Stat(filepath.Join(dir, "stubborn")); err != nil {
			os.Exit(0)
		}
	}
}

// fakeShim is a shim with a container below it.
func fakeShim(args []string) {
	if len(args) == 0 {
		child := exec.Command(os.Args[0], "container")
		if err := child.Start(); err != nil {
			panic(err)
		}
		fmt.Println(child.Process.Pid)
	}
	<-time.After(time.Minute) // were the test to die
}

func appendLine(path, line string) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(line + "\n")
	}
	if err != nil {
		panic(err)
	}
	_ = f.Close() // what matters is written
}

// installFake puts the test binary where path says.
func installFake(t *testing.T, path string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	if os.Link(self, path) == nil {
		return
	}
	from, err := os.Open(self)
	require.NoError(t, err)
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(to, from)
	require.NoError(t, err)
	require.NoError(t, to.Close())
}

// machine is a machine in a directory, with a fake K3s installed.
type machine struct {
	t    *testing.T
	root string
	// bin is the directory of the fake K3s.
	bin string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, root: t.TempDir()}
	m.bin = filepath.Join(m.root, "usr/bin")
	installFake(t, filepath.Join(m.bin, "k3s"))
	t.Cleanup(m.killAll)
	return m
}

// fast is a timing for tests: nothing waits longer than a condition needs.
var fast = directTiming{
	restartFirst: 10 * time.Millisecond, restartMax: 40 * time.Millisecond, settled: time.Hour,
	stopGrace: 20 * time.Second, logEvery: time.Minute, maxLog: 8 << 20,
}

func (m *machine) options() Options {
	return Options{
		Manager: ManagerDirect, Root: m.root, DownloadDir: m.path("/download"), RunDir: m.path("/run/muster"), LogDir: m.path("/var/log"),
	}
}

// driver returns a new driver, which is closed with the test.
func (m *machine) driver(timing directTiming) *Driver {
	d := newDriver(m.options(), timing)
	m.t.Cleanup(func() { require.NoError(m.t, d.Close()) })
	return d
}

func (m *machine) path(path string) string { return filepath.Join(m.root, path) }

func (m *machine) write(path, text string) {
	m.t.Helper()
	require.NoError(m.t, os.MkdirAll(filepath.Dir(m.path(path)), 0o755))
	require.NoError(m.t, os.WriteFile(m.path(path), []byte(text), 0o600))
}

// starts returns the starts of the fake K3s so far.
func (m *machine) starts() []fakeStart {
	text, err := os.ReadFile(filepath.Join(m.bin, "starts"))
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(m.t, err)
	var all []fakeStart
	for _, line := range strings.SplitAfter(string(text), "\n") {
		var s fakeStart
		if strings.HasSuffix(line, "\n") { // else it is being written
			require.NoError(m.t, json.Unmarshal([]byte(line), &s))
			all = append(all, s)
		}
	}
	return all
}

// waitStarts waits for the n-th start.
func (m *machine) waitStarts(n int) fakeStart {
	m.t.Helper()
	m.eventually(func() bool { return len(m.starts()) >= n }, "start %d", n)
	return m.starts()[n-1]
}

func (m *machine) eventually(is func() bool, what string, args ...any) {
	m.t.Helper()
	require.Eventually(m.t, is, 20*time.Second, 2*time.Millisecond, fmt.Sprintf(what, args...))
}

// killAll ends what the fake K3s left, by the PIDs that it noted.
func (m *machine) killAll() {
	for _, s := range m.starts() {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", s.PID))
		if err == nil && strings.HasPrefix(exe, m.root) {
			_ = syscall.Kill(s.PID, syscall.SIGKILL) // gone is fine
			var status syscall.WaitStatus
			_, _ = syscall.Wait4(s.PID, &status, 0, nil) // reaped already is fine
		}
	}
}

func alive(pid int) bool {
	_, err := startTime(pid)
	return err == nil
}
