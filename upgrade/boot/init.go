package boot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stateDeadline is how long the slot's disk may take to appear; USB disks take seconds.
	stateDeadline = 30 * time.Second
	// otherDeadline is for the other partitions: they are on the same disk and appear with it, or are on one that died.
	otherDeadline = 5 * time.Second
	// seedDeadline is for copying what an image has in its persistent paths to a slow card: gigabytes in /opt.
	seedDeadline = 10 * time.Minute
	// fatalPause leaves the reason on the screen, and a serial line the time to send it.
	fatalPause   = time.Second
	syncDeadline = 10 * time.Second
)

// Init is /init: it assembles the root file system and becomes its PID 1. It does not return: what fails is said on the console, and
// the machine reboots for the boot loader to count.
func Init() {
	m := &machine{deadline: time.Now().Add, probe: readDevice}
	err := m.guarded(m.boot)
	m.logf("FATAL %v", err)
	synced := make(chan struct{})
	go func() {
		unix.Sync()
		close(synced)
	}()
	<-time.After(fatalPause)
	select {
	case <-synced:
	case <-time.After(syncDeadline): // the disk that failed may never answer
	}
	// A reboot, not a panic: a panic waits for panic=N, which a typed command line may lack.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		m.logf("FATAL reboot: %v", err)
	}
	os.Exit(1) // PID 1 ends: the kernel panics
}

// machine is one boot.
type machine struct {
	prefix   string // before every path of a plan; empty but in tests
	console  *os.File
	kmsg     *os.File
	watchdog *watchdog
	deadline func(time.Duration) time.Time
	probe    func(device string) superblock
	stuck    map[string]bool // devices that did not answer
	report   Report
}

// guarded makes a reason of a panic: PID 1 that dies hangs a kernel without panic=N.
func (m *machine) guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v: %s", r, debug.Stack())
		}
	}()
	return f()
}

func (m *machine) path(p string) string { return m.prefix + p }

func (m *machine) boot() error {
	if err := m.mountKernel(); err != nil {
		return err
	}
	m.openConsole()
	m.loadModules("/modules.list")
	m.watchdog = openWatchdog(m.logf)
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read the command line: %w", err)
	}
	c, err := ParseCommandLine(string(line))
	if err != nil {
		return err
	}
	m.report = Report{Slot: c.Slot, Image: c.Image, Reset: c.Reset}
	m.logf("slot %s, image %s, %s on %s", c.Slot, orDash(c.Image), c.File, c.Label)
	if err := m.assemble(string(line)); err != nil {
		return err
	}
	return m.switchRoot(c.Init)
}

// assemble does the plan: first what needs no layout, then, with the layout that stage rootfs wrote, the rest.
func (m *machine) assemble(line string) error {
	in := Input{CommandLine: line, Devices: map[string]string{}}
	c, err := ParseCommandLine(line)
	if err != nil {
		return err
	}
	state, err := m.find(wanted{label: c.Label, uuid: c.FS}, stateDeadline)
	if err != nil {
		return err
	}
	in.Devices[c.Label], m.report.StateDevice = state, state
	m.findOthers(&in, state)
	steps, err := Plan(in)
	if err != nil {
		return err
	}
	done := 0
	for i, s := range steps {
		if err := m.do(s); err != nil {
			return err
		}
		if s.Op == OpStage {
			done = i + 1
			break
		}
	}
	if in.Layout, err = m.readLayout(); err != nil {
		m.problem("read the layout: %v", err)
	}
	m.findOthers(&in, state)
	if steps, err = Plan(in); err != nil {
		return err
	}
	for _, s := range steps[done:] {
		if err := m.do(s); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) findOthers(in *Input, state string) {
	for _, label := range labels(in.Layout) {
		if _, asked := in.Devices[label]; asked {
			continue
		}
		device, err := m.find(wanted{label: label, near: state}, otherDeadline)
		if err != nil {
			m.logf("%v", err)
		}
		in.Devices[label] = device
	}
}

func (m *machine) readLayout() ([][]byte, error) {
	all := make([][]byte, len(LayoutFiles))
	for i, name := range LayoutFiles {
		data, err := os.ReadFile(m.path(filepath.Join("/run/cos", name)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return all, err
		}
		all[i] = data
	}
	return all, nil
}

// do does a step, or what the plan has in its place.
func (m *machine) do(s Step) error {
	m.watchdog.ping()
	start := time.Now()
	err := m.try(s)
	if took := time.Since(start); took > time.Second {
		m.logf("%s took %.1f s", string(s.Op)+" "+cmp.Or(s.Target, s.Source), took.Seconds())
	}
	switch {
	case err == nil:
		return nil
	case s.Quiet && errors.Is(err, errNotInImage):
		return nil
	case !s.Optional:
		return fmt.Errorf("%s: %w", s.Op, err)
	}
	m.problem("%s: %v", s.Op, err)
	for _, i := range s.Instead {
		if err := m.do(i); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) try(s Step) error {
	source, target := m.path(s.Source), m.path(s.Target)
	switch s.Op {
	case OpMount:
		if !strings.HasPrefix(s.Source, "/") {
			source = s.Source
		} else if strings.HasPrefix(s.Source, "/dev/") {
			source = s.Source
		}
		return mount(source, target, s.Type, s.Options)
	case OpLoop:
		return mountLoop(source, target)
	case OpSame:
		return sameImage(target, s.Options)
	case OpMove:
		return moveMount(source, target)
	case OpCheck:
		return m.check(s.Source)
	case OpGrow:
		return m.grow(s.Source)
	case OpResize:
		return m.resize(s.Source, target)
	case OpStage:
		return m.stage(s.Target)
	case OpOverlay:
		return mountOverlay(target, source)
	case OpSeed:
		return m.watchdog.during(seedDeadline, func() error { return seed(source, target, s.Paths) })
	case OpBind:
		return bind(source, target)
	case OpID:
		return persistID(source, target)
	case OpWrite:
		return writeFile(target, []byte(s.Options))
	case OpReport:
		return m.report.write(target)
	case OpProblem:
		m.problem("%s", s.Options)
		return nil
	}
	return fmt.Errorf("unknown step %q", s.Op)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// wait returns when ready does, every tick, until the deadline; it keeps the watchdog quiet meanwhile.
func (m *machine) wait(d time.Duration, ready func() bool) bool {
	ctx, cancel := context.WithDeadline(context.Background(), m.deadline(d))
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		if ready() {
			return true
		}
		m.watchdog.ping()
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
}
