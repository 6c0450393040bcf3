package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Machine is a machine: what stays when its power is cut, and the QEMU that runs it while it is on.
type Machine struct {
	opts        Options
	accelerator Accelerator
	console     *Console
	log         *os.File
	dir         string
	keep        bool
	tap         string

	mu sync.Mutex
	// run is the QEMU that runs now, nil when the machine is off.
	run *run
	// supervised is closed when nobody starts the machine again.
	supervised chan struct{}
	cut        bool
	boots      int
	err        error
	// changed is closed whenever one of the above changes.
	changed chan struct{}
}

// run is one QEMU: from a power-on or a reset to the next.
type run struct {
	cmd     *exec.Cmd
	monitor *monitor
	guest   *guest
}

// Start powers a machine on. It returns once its first QEMU runs.
func Start(ctx context.Context, opts Options) (*Machine, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("machine %q: %w", opts.Name, err)
	}
	m := &Machine{opts: opts, changed: make(chan struct{})}
	if err := m.prepare(ctx); err != nil {
		m.remove()
		return nil, fmt.Errorf("machine %q: %w", opts.Name, err)
	}
	if err := m.PowerOn(ctx); err != nil {
		m.remove()
		return nil, err
	}
	return m, nil
}

// prepare makes what all boots have in common.
func (m *Machine) prepare(ctx context.Context) error {
	var err error
	// A short path: that of a socket must not be longer than 108 bytes.
	if m.dir, err = os.MkdirTemp("", "vm-"); err != nil {
		return err
	}
	logs := m.opts.LogDir
	if logs == "" {
		logs = os.Getenv("MUSTER_VM_LOGS")
	}
	if logs == "" {
		logs = m.dir
	}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	if m.log, err = os.OpenFile(filepath.Join(logs, m.opts.Name+".console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return err
	}
	m.console = newConsole(m.log)
	if err := os.WriteFile(m.paths().hook, []byte(m.opts.Script+"\n"+agentScript), 0o644); err != nil {
		return err
	}
	for name, content := range m.opts.Files {
		if err := os.WriteFile(m.paths().files[name], []byte(content), 0o644); err != nil {
			return err
		}
	}
	if m.opts.Firmware == UEFI {
		vars, err := os.ReadFile(ovmfVars)
		if err == nil {
			err = os.WriteFile(m.paths().vars, vars, 0o644)
		}
		if err != nil {
			return fmt.Errorf("firmware's variables: %w", err)
		}
	}
	if m.opts.Network != nil {
		if m.opts.MAC == "" {
			m.opts.MAC = m.opts.Network.nextMAC()
		}
		if m.tap, err = m.opts.Network.addTap(); err != nil {
			return err
		}
	}
	kernel := m.opts.Kernel
	if kernel == "" {
		kernel = ProbeKernel
	}
	if kernel == "" {
		m.accelerator = TCG // nothing to probe with
		return nil
	}
	m.accelerator, err = Probe(ctx, kernel)
	return err
}

// ProbeKernel is the kernel that Probe boots for machines that have theirs on their disk. Without one they are emulated.
var ProbeKernel string

// The firmware of Debian's package ovmf, for flash of 4 MiB.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

func (m *Machine) paths() paths {
	in := func(name string) string { return filepath.Join(m.dir, name) }
	p := paths{hook: in("hook"), monitor: in("monitor"), agent: in("agent"), vars: in("vars.fd"), code: ovmfCode, files: map[string]string{}}
	for i, name := range sortedKeys(m.opts.Files) {
		p.files[name] = in(fmt.Sprintf("file%d", i))
	}
	return p
}

// PowerOn starts a machine that is off.
func (m *Machine) PowerOn(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run != nil || m.supervised != nil && !isClosed(m.supervised) {
		return fmt.Errorf("power on %q: it is on", m.opts.Name)
	}
	m.cut, m.err = false, nil
	r, err := m.launch(ctx, "power on")
	if err != nil {
		return fmt.Errorf("power on %q: %w", m.opts.Name, err)
	}
	m.supervised = make(chan struct{})
	go m.supervise(r, m.supervised)
	return nil
}

// launch starts a QEMU. The caller holds m.mu.
func (m *Machine) launch(ctx context.Context, why string) (*run, error) {
	p := m.paths()
	var listeners []*net.UnixListener
	defer func() {
		for _, l := range listeners {
			_ = l.Close() // nobody connects twice
		}
	}()
	for _, path := range []string{p.monitor, p.agent} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, l)
	}
	m.boots++
	m.console.start(fmt.Sprintf("%s: start %d", why, m.boots))
	line := append([]string{"nice", "-n", "5", "qemu-system-x86_64"}, arguments(m.opts, m.accelerator, p, m.tap)...)
	if m.opts.Network != nil {
		line = m.opts.Network.inside(line)
	}
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), hugePages)
	complaints, err := os.OpenFile(filepath.Join(m.dir, "stderr"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	defer complaints.Close()
	cmd.Stdout, cmd.Stderr = m.console, complaints
	cmd.WaitDelay = stopTime
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	var conns [2]net.Conn
	for i, l := range listeners {
		if err = l.SetDeadline(time.Now().Add(stopTime)); err == nil {
			stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) }) // makes Accept return
			conns[i], err = l.Accept()
			stop()
		}
		if err != nil {
			_ = cmd.Process.Kill() // how it ends is known
			_ = cmd.Wait()
			said, _ := os.ReadFile(complaints.Name()) // as much as there is
			return nil, fmt.Errorf("QEMU did not connect: %w: %s", err, said)
		}
	}
	r := &run{cmd: cmd, monitor: newMonitor(conns[0]), guest: newGuest(conns[1])}
	if _, err := r.monitor.ask(ctx, "qmp_capabilities", nil); err != nil {
		r.end()
		return nil, err
	}
	m.run = r
	m.opts.Snapshot = "" // what comes next is a boot
	m.tell()
	return r, nil
}

// end kills QEMU and waits for what belongs to it.
func (r *run) end() {
	_ = r.cmd.Process.Kill() // it may have ended
	r.wait()
}

func (r *run) wait() {
	_ = r.cmd.Wait() // the monitor says how it ended
	<-r.monitor.done
	<-r.guest.done
}

// supervise starts a new QEMU when the machine resets.
func (m *Machine) supervise(r *run, done chan struct{}) {
	defer close(done)
	resets := 0
	for {
		r.wait()
		m.mu.Lock()
		m.run = nil
		again := !m.cut && (r.monitor.reason == "guest-reset" || r.monitor.reason == "guest-panic" || r.monitor.reason == "host-qmp-system-reset")
		switch {
		case !m.cut && r.monitor.reason == "":
			said, _ := os.ReadFile(filepath.Join(m.dir, "stderr")) // as much as there is
			m.err = fmt.Errorf("QEMU ended by itself: %s", said)
		case again && resets >= max(m.opts.Resets, 0):
			m.err = fmt.Errorf("%w: %d times", ErrResets, resets)
		case again:
			resets++
			// Its own time: nobody waits for this one in particular.
			ctx, cancel := context.WithTimeout(context.Background(), stopTime)
			next, err := m.launch(ctx, "reset")
			cancel()
			if err == nil {
				m.mu.Unlock()
				r = next
				continue
			}
			m.err = err
		}
		m.tell()
		m.mu.Unlock()
		return
	}
}

// tell wakes who waits for a change. The caller holds m.mu.
func (m *Machine) tell() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// PowerCut ends QEMU at once. What the guest has not flushed may be lost, as with a disk that has a cache.
func (m *Machine) PowerCut() {
	m.mu.Lock()
	m.cut = true
	if m.run != nil {
		_ = m.run.cmd.Process.Kill() // it may have ended
	}
	done := m.supervised
	m.mu.Unlock()
	if done != nil {
		<-done
	}
}

// SetClockOffset is Options.ClockOffset from the next start on.
func (m *Machine) SetClockOffset(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opts.ClockOffset = d
}

// WaitOff waits until the machine has powered itself off.
func (m *Machine) WaitOff(ctx context.Context) error {
	m.mu.Lock()
	done := m.supervised
	m.mu.Unlock()
	select {
	case <-done:
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %q to power off: %w", m.opts.Name, ctx.Err())
	}
}

// Boots is how often the machine was started: power-ons and resets.
func (m *Machine) Boots() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boots
}

// WaitBoots waits until the machine was started n times.
func (m *Machine) WaitBoots(ctx context.Context, n int) error {
	for {
		m.mu.Lock()
		boots, err, changed, off := m.boots, m.err, m.changed, m.run == nil
		m.mu.Unlock()
		switch {
		case boots >= n && !off:
			return nil
		case err != nil:
			return fmt.Errorf("wait for start %d of %q: %w", n, m.opts.Name, err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for start %d of %q, which had %d: %w", n, m.opts.Name, boots, ctx.Err())
		}
	}
}

// Console is what the machine printed.
func (m *Machine) Console() *Console { return m.console }

// MAC is the address of the machine's network card.
func (m *Machine) MAC() string { return m.opts.MAC }

// Accelerator tells what runs the guest.
func (m *Machine) Accelerator() Accelerator { return m.accelerator }

// WaitFor waits for a text on the console; see Console.WaitFor. A machine that is off for good ends it with ErrOff.
func (m *Machine) WaitFor(ctx context.Context, pattern *regexp.Regexp) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.mu.Lock()
	done := m.supervised
	m.mu.Unlock()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-done:
			m.mu.Lock()
			cancel(errors.Join(ErrOff, m.err))
			m.mu.Unlock()
		case <-stop:
		}
	}()
	match, err := m.console.WaitFor(ctx, pattern)
	if err != nil && context.Cause(ctx) != nil {
		err = fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	}
	return match, err
}

// Run runs a shell script in the guest and returns what it printed, both streams. It waits for the guest to come up, over resets too; one
// that happens while the script runs ends it with ErrOff. A script that fails is an *ExitError.
func (m *Machine) Run(ctx context.Context, script string) (string, error) {
	for {
		m.mu.Lock()
		r, err, changed := m.run, m.err, m.changed
		off := m.run == nil && (m.cut || m.err != nil || m.supervised == nil || isClosed(m.supervised))
		m.mu.Unlock()
		if off {
			return "", fmt.Errorf("run %q in %q: %w", script, m.opts.Name, errors.Join(ErrOff, err))
		}
		if r != nil {
			return r.guest.run(ctx, script)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("run %q in %q: %w", script, m.opts.Name, ctx.Err())
		}
	}
}

// Save stops the machine for a moment and keeps its state in its disk, under a name that Options.Snapshot takes. It cannot be done with
// UEFI, whose flash is not part of a snapshot.
func (m *Machine) Save(ctx context.Context, name string) error {
	m.mu.Lock()
	r := m.run
	m.mu.Unlock()
	if r == nil {
		return fmt.Errorf("save %q: %w", m.opts.Name, ErrOff)
	}
	return r.monitor.human(ctx, "savevm "+name)
}

// Close cuts the power and removes what the machine had outside of its disk.
func (m *Machine) Close() {
	m.PowerCut()
	m.remove()
}

// Keep leaves the console's log where it is on Close, and returns its path.
func (m *Machine) Keep() string {
	m.keep = true
	return m.log.Name()
}

func (m *Machine) remove() {
	if m.console != nil {
		m.console.close()
	}
	if m.log != nil {
		_ = m.log.Close() // for people
	}
	if m.tap != "" {
		m.opts.Network.removeTap(m.tap)
	}
	if m.dir != "" && !m.keep {
		_ = os.RemoveAll(m.dir) // in the folder for temporary files
	}
}

// dieWithParent ends a process with the one that starts it, however that ends.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
