package scenario

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"

	"github.com/muster-edge/muster/e2e/vm"
)

// Deadlines, not expectations: emulated on a busy machine a boot takes a minute.
const (
	bootTime  = 5 * time.Minute
	shellTime = 3 * time.Minute
	// upgradeTime is for an image to be pulled and a slot to be written, or for all slots to be read; installTime for three to be written.
	upgradeTime = 10 * time.Minute
	installTime = 15 * time.Minute
	readyTime   = 15 * time.Minute
	// fallTime is for an image to be tried as often as it may be and for the old one to boot.
	fallTime = 15 * time.Minute
	// healthDeadline is in the cloud-config of all machines.
	healthDeadline = 2 * time.Minute
)

// lookInterval is the least time between two looks at a condition.
const lookInterval = time.Second

// machine is a machine of a test. Its methods fail the test, so they belong on the test's own goroutine.
type machine struct {
	*vm.Machine
	t    testing.TB
	disk string
	net  *vm.Network
}

// room is for the tests that run beside each other, three as `make e2e-vm` says: one whose API server has to answer in time takes that of two.
var room = semaphore.NewWeighted(3)

// parallel is t.Parallel for a test whose machines take the room of one.
func parallel(t *testing.T) {
	t.Helper()
	t.Parallel()
	takeRoom(t, 1)
}

// takeRoom waits for room, which is the test's until it ends or leaves.
func takeRoom(t *testing.T, n int64) (leave func()) {
	t.Helper()
	require.NoError(t, room.Acquire(t.Context(), n))
	leave = sync.OnceFunc(func() { room.Release(n) })
	t.Cleanup(leave)
	return leave
}

// start powers a machine on. Without a network it gets one of its own, which serves the registry.
func start(t testing.TB, opts vm.Options) *machine {
	t.Helper()
	if opts.Network == nil {
		opts.Network = newNetwork(t)
	}
	if opts.CPUs == 0 {
		// Quicker than two beside other machines that are emulated: one would spin on a lock while the other, which holds it, has no
		// processor of this machine.
		opts.CPUs = 1
	}
	if opts.MemoryMiB == 0 {
		opts.MemoryMiB = 1536
	}
	if opts.Name == "" {
		opts.Name = testName(t)
	}
	if opts.LogDir == "" && os.Getenv("MUSTER_VM_LOGS") == "" {
		opts.LogDir = t.TempDir()
	}
	v, err := vm.Start(t.Context(), opts)
	require.NoError(t, err)
	m := &machine{Machine: v, t: t, disk: opts.Disk, net: opts.Network}
	t.Cleanup(func() {
		if t.Failed() {
			m.tellWhy()
		}
		v.Close()
	})
	return m
}

// in is the machine for a part of its test.
func (m *machine) in(t testing.TB) *machine {
	part := *m
	part.t = t
	return &part
}

func testName(t testing.TB) string { return strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()) }

func newNetwork(t testing.TB) *vm.Network {
	t.Helper()
	n, err := vm.NewNetwork(t.Context())
	require.NoError(t, err)
	t.Cleanup(n.Close)
	serveRegistry(t, n)
	return n
}

// try runs a script in the guest.
func (m *machine) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), shellTime)
	defer cancel()
	return m.Run(ctx, script)
}

// sh runs a script that must succeed and returns what it prints, without the last newline.
func (m *machine) sh(script string) string {
	m.t.Helper()
	out, err := m.try(script)
	require.NoError(m.t, err)
	return strings.TrimSuffix(out, "\n")
}

// eventually waits for a condition over resets. A look may start muster, which costs an emulated machine seconds of its processors, so
// it gets some time for what it is to do; not more than some, since a look at a machine that boots takes as long as the boot.
func (m *machine) eventually(within time.Duration, what string, is func() bool) {
	m.t.Helper()
	deadline := time.Now().Add(within)
	for {
		begun := time.Now()
		if is() {
			return
		}
		require.True(m.t, time.Now().Before(deadline), "waited %s for %s", within, what)
		time.Sleep(min(max(lookInterval, 3*time.Since(begun)), 5*lookInterval))
	}
}

// status is what tests read of what `muster status -o json` shows.
type status struct {
	ID         string
	Site       string
	Phase      string
	Role       string
	Address    string
	Verdict    string
	WaitingFor []string `json:"waiting_for"`
}

// ask fills answer from a command of muster's that prints JSON; false while it fails.
func (m *machine) ask(command string, answer any) bool {
	m.t.Helper()
	out, err := m.try("muster " + command + " -o json 2>/dev/null")
	if err != nil {
		return false
	}
	require.NoError(m.t, json.Unmarshal([]byte(out), answer), out)
	return true
}

// status asks the agent itself; its zero value while it does not answer.
func (m *machine) status() (s status) {
	m.t.Helper()
	out, err := m.try(`printf 'GET /v1/status HTTP/1.0\r\n\r\n' | socat -t 10 - UNIX-CONNECT:/run/muster/muster.sock 2>/dev/null`)
	if err != nil {
		return s
	}
	answer, err := http.ReadResponse(bufio.NewReader(strings.NewReader(out)), nil)
	if err != nil {
		return s
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode == http.StatusOK {
		require.NoError(m.t, json.Unmarshal(body, &s), "%s", body)
	}
	return s
}

// slot and state are what tests read of `muster state -o json`.
type slot struct {
	Version string
	Digest  string
	Good    bool
	Tries   int
}

type state struct {
	Booted         string
	Slots          map[string]slot
	Quarantined    []json.RawMessage
	LastUpgrade    map[string]any `json:"last_upgrade"`
	FallbackReason string         `json:"fallback_reason"`
}

func (m *machine) state() (s state) {
	m.t.Helper()
	require.True(m.t, m.ask("state", &s), "muster state fails")
	return s
}

// waitReady waits until the node is what the site made of it.
func (m *machine) waitReady() {
	m.t.Helper()
	m.eventually(readyTime, "the node to be ready", func() bool {
		s := m.status()
		return s.Phase == "running" && len(s.WaitingFor) == 0
	})
}

// waitGood waits until the image that runs has proved good.
func (m *machine) waitGood() {
	m.t.Helper()
	m.eventually(readyTime, "the image to be good", func() bool { return m.status().Verdict == "good" })
}

// boot is what muster-init reports of this boot; its zero value while the guest does not answer.
type boot struct {
	Slot     string
	Image    string
	Problems []string
}

func (m *machine) boot() (b boot) {
	m.t.Helper()
	out, err := m.try("cat /run/muster/boot.json")
	if err == nil {
		require.NoError(m.t, json.Unmarshal([]byte(out), &b), out)
	}
	return b
}

// waitBooted waits until the machine runs from a slot.
func (m *machine) waitBooted(slot string, within time.Duration) {
	m.t.Helper()
	m.eventually(within, "slot "+slot+" to be booted", func() bool { return m.boot().Slot == slot })
}

// version is what the image that runs says of itself.
func (m *machine) version() string {
	m.t.Helper()
	return m.sh(`. /etc/os-release; echo "$IMAGE_VERSION"`)
}

// upgrade writes an image into the other slot.
func (m *machine) upgrade(p pushed) {
	m.t.Helper()
	m.long(upgradeCommand(p))
}

// verify reads every file of all slots.
func (m *machine) verify() {
	m.t.Helper()
	m.long("muster state --verify")
}

// long runs a command that reads or writes whole images, and must succeed.
func (m *machine) long(command string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), upgradeTime)
	defer cancel()
	out, err := m.Run(ctx, command)
	require.NoError(m.t, err, out)
}

func upgradeCommand(p pushed) string { return "muster upgrade --insecure --source " + p.ref() }

// reboot restarts the guest as an operator does, and returns when the next boot has begun.
func (m *machine) reboot() {
	m.t.Helper()
	boots := m.Boots()
	m.sh("(sleep 1; systemctl reboot) >/dev/null 2>&1 &")
	ctx, cancel := context.WithTimeout(m.t.Context(), bootTime)
	defer cancel()
	require.NoError(m.t, m.WaitBoots(ctx, boots+1))
}

func (m *machine) powerOff() {
	m.t.Helper()
	m.sh("(sleep 1; systemctl poweroff) >/dev/null 2>&1 &")
	ctx, cancel := context.WithTimeout(m.t.Context(), bootTime)
	defer cancel()
	require.NoError(m.t, m.WaitOff(ctx))
}

func (m *machine) powerOn() {
	m.t.Helper()
	require.NoError(m.t, m.PowerOn(m.t.Context()))
}

// tellWhy logs what a failed test's machine says, and keeps its journal.
func (m *machine) tellWhy() {
	lines := m.Console().Lines()
	for _, l := range lines[max(0, len(lines)-25):] {
		m.t.Logf("console %7.2f %s", l.At.Seconds(), l.Text)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, command := range []string{"muster why", "muster state", "cat /run/muster/boot.json", "systemctl --failed --no-legend", "journalctl -b -n 30 --no-pager -u muster -u k3s"} {
		out, err := m.Run(ctx, command+" 2>&1")
		m.t.Logf("%s: %v\n%s", command, err, out)
		if errors.Is(err, vm.ErrOff) || ctx.Err() != nil {
			return
		}
	}
	if dir := os.Getenv("MUSTER_VM_LOGS"); dir != "" {
		journal, err := m.Run(ctx, "journalctl -b --no-pager")
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s.journal.log", testName(m.t))), []byte(journal), 0o644)
		}
		if err != nil {
			m.t.Logf("journal: %v", err)
		}
	}
}
