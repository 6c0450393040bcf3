package k3s

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/p2p"
)

const (
	// restartFirst and restartMax bound the pause before a K3s that ended is
	// started again. K3s's own unit waits 5 s.
	restartFirst = 2 * time.Second
	restartMax   = 30 * time.Second
	// stopGrace is what K3s gets between SIGTERM and SIGKILL.
	stopGrace = 20 * time.Second
	// maxLog is the size in bytes from which the log of an earlier start is
	// moved aside.
	maxLog = 8 << 20
)

// direct runs K3s as a session of its own, so that it outlives the agent, and
// takes over at start what an earlier agent left running.
type direct struct {
	pidFile string
	logFile string
	log     *slog.Logger
	onExit  func()

	mu      sync.Mutex
	wanted  *process
	live    *livePID
	backoff time.Duration
	ctx     context.Context
	cancel  context.CancelFunc
	keeper  sync.WaitGroup
}

// livePID names a process for certain: a PID alone may have been given to
// another one.
type livePID struct {
	PID int `json:"pid"`
	// Start is the process's start time in clock ticks since boot, field 22 of
	// proc(5) stat.
	Start uint64 `json:"start"`
	Role  Role   `json:"role"`
}

func newDirect(runDir, logDir string, log *slog.Logger, onExit func()) *direct {
	d := &direct{
		pidFile: filepath.Join(runDir, "k3s.pid"), logFile: filepath.Join(logDir, "k3s.log"),
		log: log, onExit: onExit, backoff: restartFirst,
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if p, ok := d.readPID(); ok {
		d.live = p
		d.keep(p, nil)
	}
	return d
}

func (d *direct) start(_ context.Context, p process) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live != nil && d.live.Role != p.role {
		return fmt.Errorf("start K3s as %s: it runs as %s and has to be stopped first", p.role, d.live.Role)
	}
	d.wanted = &p
	if d.live != nil {
		return nil
	}
	return d.spawn(p)
}

// spawn starts p and watches it. The caller holds the lock.
func (d *direct) spawn(p process) error {
	if info, err := os.Stat(d.logFile); err == nil && info.Size() > maxLog {
		if err := os.Rename(d.logFile, d.logFile+".1"); err != nil {
			return fmt.Errorf("start K3s: %w", err)
		}
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(d.logFile), 0o755), os.MkdirAll(filepath.Dir(d.pidFile), 0o755)); err != nil {
		return fmt.Errorf("start K3s: %w", err)
	}
	out, err := os.OpenFile(d.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start K3s: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(p.binary, append([]string{string(p.role)}, p.args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = os.Environ()
	for name, value := range p.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start K3s: %w", err)
	}
	started, err := startTime(cmd.Process.Pid)
	if err != nil {
		started = 0 // it is gone already; Wait below will say so
	}
	live := &livePID{PID: cmd.Process.Pid, Start: started, Role: p.role}
	text, err := json.Marshal(live)
	if err == nil {
		err = p2p.WriteFile(d.pidFile, text, 0o600)
	}
	if err != nil {
		// Without the file the next agent would start a second K3s.
		return errors.Join(fmt.Errorf("start K3s: %w", err), cmd.Process.Kill(), cmd.Wait())
	}
	d.live = live
	d.keep(live, cmd)
	d.log.Info("started K3s", "role", p.role, "pid", live.PID)
	return nil
}

// keep waits for the process to end and starts it again while it is wanted.
// cmd is nil for a process that an earlier agent started.
func (d *direct) keep(live *livePID, cmd *exec.Cmd) {
	d.keeper.Go(func() {
		ended := make(chan error, 1)
		go func() { ended <- waitEnd(d.ctx, live, cmd) }()
		begun := time.Now()
		var why error
		select {
		case why = <-ended:
		case <-d.ctx.Done():
			return // the agent ends, K3s goes on
		}
		if d.ctx.Err() != nil {
			return
		}
		d.mu.Lock()
		d.live = nil
		_ = os.Remove(d.pidFile) // stale from here on; a leftover is recognised by its start time
		wanted := d.wanted
		if time.Since(begun) > time.Minute {
			d.backoff = restartFirst
		}
		pause := d.backoff
		d.backoff = min(2*d.backoff, restartMax)
		d.mu.Unlock()
		d.onExit()
		if wanted == nil {
			return
		}
		d.log.Warn("K3s ended", "error", why, "restart", pause, "log", d.logFile)
		select {
		case <-time.After(pause):
		case <-d.ctx.Done():
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.live != nil || d.wanted == nil {
			return
		}
		if err := d.spawn(*d.wanted); err != nil {
			d.log.Error("restart K3s", "error", err)
		}
	})
}

// waitEnd returns when the process has ended, or nil when ctx did.
func waitEnd(ctx context.Context, live *livePID, cmd *exec.Cmd) error {
	if cmd != nil {
		return cmd.Wait()
	}
	fd, err := unix.PidfdOpen(live.PID, 0)
	if err != nil {
		return nil // gone before it could be watched
	}
	defer unix.Close(fd)
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 500)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return errors.New("ended")
		}
	}
	return nil
}

func (d *direct) running(_ context.Context, role Role) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.live != nil && d.live.Role == role, nil
}

func (d *direct) stop(ctx context.Context) error {
	d.mu.Lock()
	d.wanted = nil
	live := d.live
	d.mu.Unlock()
	if live == nil {
		return nil
	}
	fd, err := unix.PidfdOpen(live.PID, 0)
	if err != nil {
		return nil // ended by itself
	}
	defer unix.Close(fd)
	if now, err := startTime(live.PID); err != nil || now != live.Start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop K3s: %w", err)
	}
	deadline := time.Now().Add(stopGrace)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("stop K3s: %w", err)
		case ctx.Err() != nil:
			return fmt.Errorf("stop K3s: %w", ctx.Err())
		case time.Now().After(deadline):
			if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("stop K3s: %w", err)
			}
			deadline = deadline.Add(stopGrace)
		}
	}
}

func (d *direct) close() error {
	d.cancel()
	d.keeper.Wait()
	return nil
}

// readPID returns the process of an earlier agent if it is that one and alive.
func (d *direct) readPID() (*livePID, bool) {
	text, err := os.ReadFile(d.pidFile)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			d.log.Warn("read K3s PID file", "error", err)
		}
		return nil, false
	}
	var p livePID
	if err := json.Unmarshal(text, &p); err != nil || p.PID <= 0 {
		return nil, false
	}
	started, err := startTime(p.PID)
	return &p, err == nil && started == p.Start
}

// startTime reads field 22 of /proc/PID/stat. The second field is the command
// in parentheses and may hold spaces and parentheses itself.
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	if fields[0] == "Z" {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
