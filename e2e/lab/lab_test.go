package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/p2p"
)

func ctxForChild() context.Context { return context.Background() }

// labUp brings up a lab of fake agents and checks, after it was taken down, that nothing of it is left.
func labUp(t *testing.T, opts Options) *Lab {
	t.Helper()
	checkNothingLeft(t)
	return ForTest(t.Context(), t, patient(opts))
}

// patient bounds the wait of a lab in these tests: fake agents answer in a moment, or never. And it keeps the race detector from
// sleeping for a second at the end of every command in a node.
func patient(opts Options) Options {
	opts.Env = append(opts.Env, "GORACE=atexit_sleep_ms=0")
	if opts.Timeout == 0 {
		opts.Timeout = 30 * time.Second
	}
	return opts
}

// checkNothingLeft makes sure, when everything registered after it has been cleaned up, that no process, namespace, mount or
// link of a lab is left. Namespaces are found by the processes in them, and labs have no other.
func checkNothingLeft(t *testing.T) {
	t.Helper()
	require.Empty(t, leftovers(t))
	t.Cleanup(func() {
		// The kernel takes namespaces apart in the background.
		require.Eventually(t, func() bool { return len(leftovers(t)) == 0 }, 10*time.Second, 20*time.Millisecond)
		require.Empty(t, leftovers(t))
	})
}

// labLink is what a lab names its links.
var labLink = regexp.MustCompile(`^(lan0|p[0-9]+-n[0-9]+)$`)

func leftovers(t *testing.T) []string {
	t.Helper()
	var left []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, os.TempDir()+"/") {
			left = append(left, line)
		}
	}
	links, err := os.ReadDir("/sys/class/net")
	require.NoError(t, err)
	for _, link := range links {
		if labLink.MatchString(link.Name()) {
			left = append(left, link.Name())
		}
	}
	own, err := os.Stat("/proc/self/exe")
	require.NoError(t, err)
	processes, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, p := range processes {
		// Others run labs on this machine too: ours are the processes of this very binary, under whatever path it is bound.
		exe, err := os.Stat(p + "/exe")
		if err == nil && os.SameFile(exe, own) && p != fmt.Sprintf("/proc/%d", os.Getpid()) {
			args, _ := os.ReadFile(p + "/cmdline") // it may have ended
			left = append(left, p+" "+string(args))
		}
	}
	return left
}

func TestEveryNodeIsAMachineOfItsOwn(t *testing.T) {
	l := labUp(t, Options{Nodes: 2, Config: []byte("#cloud-config\n"), NodeConfig: map[string][]byte{"n2": []byte("#cloud-config\nhostname: two\n")}})
	ctx := t.Context()

	out, err := l.Exec(ctx, "n1", "hostname")
	require.NoError(t, err)
	require.Equal(t, "localhost\n", out)
	out, err = l.Exec(ctx, "n2", "hostname")
	require.NoError(t, err)
	require.Equal(t, "two\n", out)
	out, err = l.Exec(ctx, "n2", "cat", "/oem/90_custom.yaml", "/etc/hostname")
	require.NoError(t, err)
	require.Equal(t, "#cloud-config\nhostname: two\ntwo\n", out)

	out, err = l.Exec(ctx, "n1", "sh", "-c", "readlink /proc/1/exe; cat /proc/1/cmdline | tr '\\0' ' '; ls /etc/rancher /etc/muster /var/lib/rancher /run /tmp")
	require.NoError(t, err)
	require.Contains(t, out, InitCommand+" "+roleNode)

	for _, path := range []string{"/etc/x", "/usr/local/x", "/etc/rancher/x", "/tmp/x", "/run/x", "/var/lib/rancher/x", "/x"} {
		_, err = l.Exec(ctx, "n1", "touch", path)
		require.NoError(t, err)
		_, err = os.Stat(path)
		require.ErrorIs(t, err, os.ErrNotExist, "%s reached the host", path)
		_, err = l.Exec(ctx, "n2", "test", "-e", path)
		require.Error(t, err, "%s reached another node", path)
	}
	_, err = l.Exec(ctx, "n1", "touch", "/usr/x")
	require.Error(t, err, "the image can be written to")

	ids := map[string]bool{}
	for _, name := range []string{"n1", "n2"} {
		out, err = l.Exec(ctx, name, "sh", "-c", "echo $MUSTER_HARDWARE_ID")
		require.NoError(t, err)
		ids[out] = true
	}
	require.Len(t, ids, 2)
}

func TestExecPassesStreamsAndExitCode(t *testing.T) {
	l := labUp(t, Options{})
	var out strings.Builder
	err := l.Run(t.Context(), "n1", Command{Args: []string{"sh", "-c", "cat; exit 7"}, Stdin: strings.NewReader("in"), Stdout: &out})
	require.Equal(t, 7, ExitCode(err))
	require.Equal(t, "in", out.String())

	_, err = l.Exec(t.Context(), "n1", "sh", "-c", "kill -9 $$")
	require.Equal(t, 137, ExitCode(err))
	_, err = l.Exec(t.Context(), "n1", "no-such-program")
	require.Equal(t, 127, ExitCode(err))
	_, err = l.Exec(t.Context(), "n7", "true")
	require.Equal(t, 2, ExitCode(err))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = l.Exec(ctx, "n1", "sleep", "1000")
	require.ErrorIs(t, err, context.Canceled)
}

func TestPowerCutKeepsTheDiskAndNothingElse(t *testing.T) {
	l := labUp(t, Options{Until: UntilSeen})
	ctx := t.Context()
	_, err := l.Exec(ctx, "n1", "sh", "-c", "echo kept | tee /usr/local/f /var/lib/rancher/f /etc/rancher/f; echo lost | tee /etc/f /run/f /tmp/f /f; hostname other")
	require.NoError(t, err)
	_, err = l.Exec(ctx, "n1", "/usr/local/bin/muster", "orphan")
	require.NoError(t, err)
	hardware, err := l.Exec(ctx, "n1", "sh", "-c", "echo $MUSTER_HARDWARE_ID")
	require.NoError(t, err)

	require.NoError(t, l.Kill(ctx, "n1"))
	rows, err := l.Status(ctx)
	require.NoError(t, err)
	require.Equal(t, PhaseDown, rows[0].Phase)
	require.Zero(t, rows[0].PID)
	_, err = l.Exec(ctx, "n1", "true")
	require.ErrorIs(t, err, ErrNodeDown)

	require.NoError(t, l.Start(ctx, "n1"))
	out, err := l.Exec(ctx, "n1", "sh", "-c", "cat /usr/local/f /var/lib/rancher/f /etc/rancher/f; ls /etc/f /run/f /tmp/f /f 2>/dev/null; hostname; echo $MUSTER_HARDWARE_ID")
	require.NoError(t, err)
	require.Equal(t, "kept\nkept\nkept\nlocalhost\n"+hardware, out)
	require.NoError(t, l.WaitUntil(ctx, UntilSeen, time.Minute, nil))
	require.Equal(t, "xx", readNodeFile(t, l, fakeStamp))

	require.NoError(t, l.Wipe(ctx, "n1"))
	require.NoError(t, l.Start(ctx, "n1"))
	require.NoError(t, l.WaitUntil(ctx, UntilSeen, time.Minute, nil))
	require.Equal(t, "x", readNodeFile(t, l, fakeStamp))
	again, err := l.Exec(ctx, "n1", "sh", "-c", "echo $MUSTER_HARDWARE_ID")
	require.NoError(t, err)
	require.Equal(t, hardware, again)
}

func readNodeFile(t *testing.T, l *Lab, path string) string {
	t.Helper()
	out, err := l.Exec(t.Context(), "n1", "cat", path)
	require.NoError(t, err)
	return out
}

func TestNodeOutlivesItsAgent(t *testing.T) {
	l := labUp(t, Options{Until: UntilSeen})
	ctx := t.Context()
	before, err := l.Status(ctx)
	require.NoError(t, err)
	require.NotZero(t, before[0].AgentPID)
	require.NoError(t, l.KillAgent(ctx, "n1", unix.SIGKILL))
	rows, err := l.Status(ctx)
	require.NoError(t, err)
	require.Equal(t, PhaseDown, rows[0].Phase)
	require.Equal(t, "the agent does not run: signal SIGKILL", rows[0].Reason)
	require.Equal(t, before[0].PID, rows[0].PID)
	require.Error(t, l.KillAgent(ctx, "n1", unix.SIGKILL))

	require.NoError(t, l.Start(ctx, "n1"))
	require.NoError(t, l.WaitUntil(ctx, UntilSeen, time.Minute, nil))
	require.NoError(t, l.Start(ctx, "n1"), "starting what runs changes nothing")
	require.Equal(t, "xx", readNodeFile(t, l, fakeStamp))

	_, err = l.Exec(ctx, "n1", "/usr/local/bin/muster", "orphan")
	require.NoError(t, err)
	require.NoError(t, l.Signal(ctx, "n1", unix.SIGTERM))
	require.Eventually(t, func() bool {
		out, err := l.Exec(ctx, "n1", "sh", "-c", "ls -d /proc/[0-9]* | wc -l")
		return err == nil && strings.TrimSpace(out) == "4" // PID 1, sh, ls, wc: orphan and agent are ended and reaped
	}, 5*time.Second, 20*time.Millisecond)
	rows, err = l.Status(ctx)
	require.NoError(t, err)
	require.Equal(t, before[0].PID, rows[0].PID)
}

func TestUpWaitsForRolesAndWritesATimeline(t *testing.T) {
	var progress strings.Builder
	l := labUp(t, Options{Nodes: 3, Until: UntilReady, Env: []string{"FAKE_ROLES=3"}, Progress: &progress})
	require.Contains(t, progress.String(), "all nodes: ready")
	rows, err := l.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, rows, 3)
	for _, row := range rows {
		require.True(t, row.Ready)
		require.Equal(t, "self", row.Path)
		require.NotZero(t, row.AgentPID)
		_, err := os.Stat(row.NetNS)
		require.NoError(t, err)
	}
	raw, err := os.ReadFile(filepath.Join(l.Dir(), "timeline.json"))
	require.NoError(t, err)
	require.Contains(t, string(raw), `"ready":`)

	names, err := l.Add(t.Context(), 2)
	require.NoError(t, err)
	require.Equal(t, []string{"n4", "n5"}, names)
	require.NoError(t, l.WaitUntil(t.Context(), UntilSeen, time.Minute, nil))
	seen, err := l.Seen(t.Context(), "n4")
	require.NoError(t, err)
	require.Len(t, seen, 5)
}

func TestTimeoutKeepsTheLabAndSaysWhy(t *testing.T) {
	checkNothingLeft(t)
	var progress strings.Builder
	l, err := New(patient(Options{Dir: filepath.Join(t.TempDir(), "lab"), Until: UntilRoles, Timeout: time.Second, Progress: &progress}))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Down(context.WithoutCancel(t.Context()))) })
	err = l.Up(t.Context())
	require.Equal(t, 3, ExitCode(err))
	require.Contains(t, progress.String(), "n1: waiting for a second node")
	_, err = l.Exec(t.Context(), "n1", "true")
	require.NoError(t, err)
}

func TestDownAfterUpWasKilledLeavesNothing(t *testing.T) {
	for _, delay := range []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond} {
		t.Run(delay.String(), func(t *testing.T) {
			checkNothingLeft(t)
			dir := filepath.Join(t.TempDir(), "lab")
			up := exec.Command("/proc/self/exe", "lab-up", dir, "3")
			up.Args[0] = "lab-up"
			require.NoError(t, up.Start())
			require.NoError(t, pause(t.Context(), delay))
			require.NoError(t, up.Process.Kill())
			require.Error(t, up.Wait())
			l, err := At(dir)
			require.NoError(t, err)
			require.NoError(t, l.Down(t.Context()))
			_, err = os.Stat(dir)
			require.ErrorIs(t, err, os.ErrNotExist)
			require.NoError(t, l.Down(t.Context()), "a second time")
		})
	}
}

func TestDownAfterUpWasKilledWhileItWroteLeavesNothing(t *testing.T) {
	torn := func(name string) string {
		return strings.ReplaceAll(filepath.Base(p2p.Unfinished(name)), "*", "1234")
	}
	for _, left := range [][]string{
		{}, {"lock"}, {"lock", torn("lab.json")}, {"lock", "lab.json", torn("config.yaml")}, {"lock", "lab.json", torn("timeline.json")},
	} {
		dir := filepath.Join(t.TempDir(), "lab[1]")
		require.NoError(t, os.Mkdir(dir, 0o700))
		for _, name := range left {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("{"), 0o600))
		}
		l, err := At(dir)
		require.NoError(t, err)
		require.NoError(t, l.Down(t.Context()))
		require.NoDirExists(t, dir)
	}
}

func TestInterruptedUpIsReplacedByTheNext(t *testing.T) {
	checkNothingLeft(t)
	dir := filepath.Join(t.TempDir(), "lab")
	up := exec.Command("/proc/self/exe", "lab-up", dir, "2")
	require.NoError(t, up.Start())
	require.Eventually(t, func() bool { l, err := Open(dir); return err == nil && running(l) == 2 }, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, up.Process.Signal(syscall.SIGINT))
	require.Error(t, up.Wait())
	l := ForTest(t.Context(), t, patient(Options{Dir: dir, Nodes: 1, Until: UntilSeen}))
	nodes, err := l.Nodes()
	require.NoError(t, err)
	require.Equal(t, []string{"n1"}, nodes)
}

func running(l *Lab) int {
	s, err := loadState(l.dir)
	if err != nil {
		return 0
	}
	count := 0
	for _, n := range s.Nodes {
		if n.Init.alive() {
			count++
		}
	}
	return count
}

func TestDownFindsALabWhoseStateIsLost(t *testing.T) {
	checkNothingLeft(t)
	dir := filepath.Join(t.TempDir(), "lab")
	l := ForTest(t.Context(), t, patient(Options{Dir: dir, Nodes: 2}))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lab.json"), []byte("{"), 0o600))
	require.NoError(t, l.Down(t.Context()))

	require.NoError(t, l.Up(t.Context()))
	// The nodes are alive and make files while theirs are taken away.
	require.Eventually(t, func() bool { return os.RemoveAll(dir) == nil }, 10*time.Second, 10*time.Millisecond)
}

func TestALabKeepsOutOfADirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600))
	l, err := New(Options{Dir: dir})
	require.NoError(t, err)
	require.Equal(t, 2, ExitCode(l.Up(t.Context())))
	require.NoError(t, l.Down(t.Context()))
	_, err = os.Stat(filepath.Join(dir, "thesis.tex"))
	require.NoError(t, err)
}

func TestTwoLabsDoNotMeetUnlessTheyShareABridge(t *testing.T) {
	checkNothingLeft(t)
	labUp := func(opts Options) *Lab { return ForTest(t.Context(), t, patient(opts)) }
	one := labUp(Options{Nodes: 1, Until: UntilSeen})
	other := labUp(Options{Nodes: 1, Until: UntilSeen})
	bridge := "t" + strconv.Itoa(os.Getpid())
	left := labUp(Options{Nodes: 1, Bridge: bridge, Until: UntilSeen})
	right := labUp(Options{Nodes: 1, Bridge: bridge, Until: UntilSeen})

	require.Eventually(t, func() bool { return sees(t, left) == 2 && sees(t, right) == 2 }, 10*time.Second, 50*time.Millisecond)
	require.Equal(t, 1, sees(t, one))
	require.Equal(t, 1, sees(t, other))

	// The bridge lives as long as one of its labs, whichever made it.
	require.NoError(t, left.Down(t.Context()))
	later := labUp(Options{Nodes: 1, Bridge: bridge, Until: UntilSeen})
	require.Eventually(t, func() bool { return sees(t, right) == 3 && sees(t, later) == 2 }, 10*time.Second, 50*time.Millisecond)
}

func sees(t *testing.T, l *Lab) int {
	t.Helper()
	rows, err := l.Seen(t.Context(), "n1")
	require.NoError(t, err)
	return len(rows)
}

func TestPartitionLossAndCableDecideWhatArrives(t *testing.T) {
	l := labUp(t, Options{Nodes: 3})
	ctx := t.Context()
	const sent = 1000
	all := func(from, to string) { require.Equal(t, sent, arrive(t, l, from, to, sent), "%s to %s", from, to) }
	none := func(from, to string) { require.Zero(t, arrive(t, l, from, to, sent), "%s to %s", from, to) }
	all("n1", "n2")

	require.NoError(t, l.Partition(ctx, []string{"n1"}, []string{"n2"}))
	none("n1", "n2")
	none("n2", "n1")
	all("n1", "n3")
	all("n3", "n2")
	require.NoError(t, l.Partition(ctx, []string{"n1", "n2"}, []string{"n3"}))
	all("n1", "n2")
	none("n1", "n3")
	require.NoError(t, l.Restart(ctx, "n3"))
	none("n1", "n3")
	require.NoError(t, l.Heal(ctx))
	all("n1", "n3")

	loss := 30.0
	require.NoError(t, l.Link(ctx, "n2", LinkChange{Loss: &loss}))
	for _, way := range [][2]string{{"n1", "n2"}, {"n2", "n3"}} {
		got := arrive(t, l, way[0], way[1], sent)
		require.InDelta(t, 700, got, 100, "%s to %s: 30 %% of %d lost", way[0], way[1], sent) // 7 standard deviations
	}
	all("n1", "n3")

	out := true
	require.NoError(t, l.Link(ctx, "n3", LinkChange{Down: &out}))
	carrier, err := l.Exec(ctx, "n3", "cat", "/sys/class/net/eth0/carrier")
	require.NoError(t, err)
	require.Equal(t, "0\n", carrier)
	none("n1", "n3")
	require.NoError(t, l.Heal(ctx))
	all("n1", "n2")
	all("n1", "n3")
}

// arrive returns how many of count datagrams from one node reach another.
func arrive(t *testing.T, l *Lab, from, to string, count int) int {
	t.Helper()
	addr, err := l.NodeAddr(to)
	require.NoError(t, err)
	reader, writer := io.Pipe()
	telling, told := io.Pipe()
	heard := make(chan error, 1)
	go func() {
		err := l.Run(t.Context(), to, Command{Args: []string{"muster", "hear", "0.0.0.0:9000", "500ms"}, Stdin: telling, Stdout: writer})
		_ = writer.Close() // never fails
		heard <- err
	}()
	lines := bufio.NewScanner(reader)
	require.True(t, lines.Scan())
	require.Equal(t, "ready", lines.Text())
	_, err = l.Exec(t.Context(), from, "muster", "tell", addr.String()+":9000", strconv.Itoa(count))
	require.NoError(t, err)
	require.NoError(t, told.Close())
	require.True(t, lines.Scan())
	got, err := strconv.Atoi(lines.Text())
	require.NoError(t, err)
	require.NoError(t, <-heard)
	return got
}

func TestNodesReachAServerOfTheTest(t *testing.T) {
	l := labUp(t, Options{})
	listener, err := l.ListenSwitch(t.Context(), ":0")
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }), ReadHeaderTimeout: time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	out, err := l.Exec(t.Context(), "n1", "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3",
		strings.ReplaceAll(listener.Addr().String(), ":", "/")))
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(out, "hello"), out)
}

func TestAClonedDiskKeepsEverythingButTheHardware(t *testing.T) {
	l := labUp(t, Options{Nodes: 2, Until: UntilSeen})
	ctx := t.Context()
	_, err := l.Exec(ctx, "n1", "sh", "-c", "echo secret > /usr/local/identity; chmod 600 /usr/local/identity")
	require.NoError(t, err)
	require.NoError(t, l.CloneState(ctx, "n1", "n2"))
	require.NoError(t, l.Start(ctx, "n2"))
	out, err := l.Exec(ctx, "n2", "stat", "-c", "%a %s", "/usr/local/identity")
	require.NoError(t, err)
	require.Equal(t, "600 7\n", out)
	require.Equal(t, 2, ExitCode(l.CloneState(ctx, "n1", "n1")))
}

func TestLogsFollowTheAgent(t *testing.T) {
	l := labUp(t, Options{Until: UntilSeen})
	var once strings.Builder
	require.NoError(t, l.Logs(t.Context(), "n1", &once, false))
	require.Contains(t, once.String(), "fake agent of")

	ctx, stop := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	followed := make(chan error, 1)
	go func() {
		followed <- l.Logs(ctx, "n1", writer, true)
		_ = writer.Close() // never fails
	}()
	require.NoError(t, l.KillAgent(t.Context(), "n1", unix.SIGKILL))
	lines := bufio.NewScanner(reader)
	for lines.Scan() && !strings.Contains(lines.Text(), "SIGKILL") {
	}
	require.Contains(t, lines.Text(), "the agent ended: signal SIGKILL")
	stop()
	require.NoError(t, <-followed)
}
