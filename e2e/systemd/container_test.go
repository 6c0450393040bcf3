package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// bootDeadline and stopDeadline bound what takes a second on a quiet machine.
const (
	bootDeadline = time.Minute
	stopDeadline = time.Minute
	waitDeadline = time.Minute
)

// namePrefix and the test's PID make a container's name.
const namePrefix = "muster-e2e-"

// container is a machine with systemd as PID 1. Its disk is in memory, over the
// shared root file system.
type container struct {
	t    *testing.T
	name string
	// leader is its PID 1 as seen from outside.
	leader int
	nspawn *exec.Cmd
	// shared is a directory of the host's that the container has as /shared.
	shared string
}

// enter puts nspawn into cgroups of its own, because it makes its payload's
// beside those of its caller. It knows cgroup v1, v2 and both at once.
const enter = `set -eu
for top in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
	[ -w "$top/cgroup.procs" ] || continue
	mkdir -p "$top/$0"
	echo $$ > "$top/$0/cgroup.procs"
done
exec "$@"`

func boot(t *testing.T) *container {
	t.Helper()
	c := &container{t: t, name: namePrefix + strconv.Itoa(os.Getpid()), shared: t.TempDir()}
	copySelf(t, filepath.Join(c.shared, "driver"))
	copySelf(t, filepath.Join(c.shared, "k3s"))
	c.nspawn = exec.Command("/bin/sh", "-c", enter, c.name,
		"systemd-nspawn", "--quiet", "--directory="+rootfs(t), "--volatile=overlay", "--boot", "--register=no", "--keep-unit",
		"--machine="+c.name, "--private-network", "--console=pipe", "--bind="+c.shared+":/shared",
		// The mesh's interface, where the kernel has no WireGuard.
		"--bind=/dev/net/tun", "--capability=CAP_NET_ADMIN")
	var console lockedBuffer
	c.nspawn.Stdout, c.nspawn.Stderr = &console, &console
	c.nspawn.WaitDelay = time.Second
	// A test that is killed takes its machine along; what stays is empty cgroups,
	// for the next to remove.
	c.nspawn.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	removeStaleCgroups(t)
	require.NoError(t, c.nspawn.Start())
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("console:\n%s", console.String())
		}
	})
	c.eventually(bootDeadline, "boot", func() bool {
		c.leader = childOf(c.nspawn.Process.Pid)
		if c.leader == 0 {
			return false
		}
		state, _ := c.try("systemctl", "is-system-running") // it answers with its exit code too
		return slices.Contains([]string{"running", "degraded"}, strings.TrimSpace(state))
	})
	return c
}

// rootfs makes the root file system where there is none yet.
var rootfsOnce = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("./prepare")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
})

func rootfs(t *testing.T) string {
	t.Helper()
	path, err := rootfsOnce()
	require.NoError(t, err)
	return path
}

func copySelf(t *testing.T, path string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	copyFile(t, self, path)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	require.NoError(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, errors.Join(err, out.Close()))
}

// try runs a command in the container and returns what it prints.
func (c *container) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(c.leader), "-m", "-p", "-u", "-i", "-n", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GORACE=atexit_sleep_ms=0", "HOME=/root"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *container) run(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	require.NoError(c.t, err, "%q: %s", args, out)
	return out
}

// show returns a property of a unit.
func (c *container) show(unit, property string) string {
	c.t.Helper()
	return strings.TrimSpace(c.run("systemctl", "show", "--value", "-p", property, unit))
}

func (c *container) eventually(within time.Duration, what string, is func() bool) {
	c.t.Helper()
	require.Eventually(c.t, is, within, 50*time.Millisecond, what)
}

func (c *container) waitState(unit, state string) {
	c.t.Helper()
	c.eventually(waitDeadline, unit+" to be "+state, func() bool { return c.show(unit, "ActiveState") == state })
}

// stop ends the container and removes its cgroups. nspawn takes its mounts along.
func (c *container) stop() {
	if c.leader != 0 {
		_ = syscall.Kill(c.leader, syscall.Signal(0x26)) // SIGRTMIN+4: power off; when it fails, the next does not
	}
	timer := time.AfterFunc(stopDeadline, func() { _ = c.nspawn.Process.Kill() })
	defer timer.Stop()
	_ = c.nspawn.Wait() // how it ended does not matter
	removeCgroups(c.t, c.name)
}

// removeStaleCgroups removes those of tests that were killed.
func removeStaleCgroups(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/" + namePrefix + "*", "/sys/fs/cgroup/*/" + namePrefix + "*"} {
		tops, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, top := range tops {
			owner := strings.TrimPrefix(filepath.Base(top), namePrefix)
			if _, err := os.Stat("/proc/" + owner); errors.Is(err, fs.ErrNotExist) {
				removeCgroups(t, filepath.Base(top))
			}
		}
	}
}

// removeCgroups removes a container's cgroups, children first.
func removeCgroups(t *testing.T, name string) {
	t.Helper()
	tops, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	require.NoError(t, err)
	for _, top := range append(tops, "/sys/fs/cgroup/"+name) {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			// The last process is reaped a moment after nspawn ends.
			require.Eventually(t, func() bool {
				err := os.Remove(dir)
				return err == nil || errors.Is(err, fs.ErrNotExist)
			}, stopDeadline, 20*time.Millisecond, "%s to be removed", dir)
		}
	}
}

func childOf(parent int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return 0
	}
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			continue
		}
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(comm)) == "systemd" {
			return pid
		}
	}
	return 0
}

// lockedBuffer is written by a process and read by a test.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
