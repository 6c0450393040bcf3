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
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/p2p"
)

// directTiming paces a K3s without service manager.
type directTiming struct {
	// restartFirst and restartMax bound the pause before a K3s that ended is
	// started again; it doubles in between. K3s's own unit waits 5 s.
	restartFirst, restartMax time.Duration
	// settled is how long K3s has to have lived for the pause to be the first
	// again.
	settled time.Duration
	// stopGrace is what K3s gets between SIGTERM and SIGKILL.
	stopGrace time.Duration
	// logEvery is how often the log's size is looked at while K3s runs.
	logEvery time.Duration
	// maxLog is the size in bytes from which the log is moved aside.
	maxLog int64
}

var defaultDirectTiming = directTiming{
	restartFirst: 2 * time.Second, restartMax: 30 * time.Second, settled: time.Minute,
	stopGrace: 20 * time.Second, logEvery: time.Minute, maxLog: 8 << 20,
}

// direct runs K3s as a session of its own, so that it outlives the agent, and
// takes over at start what an earlier agent left running.
type direct struct {
	pidFile string
	logFile string
	log     *slog.Logger
	onExit  func()
	timing  directTiming
	// closing ends the keepers that wait for a timer, closed those that wait for
	// a process.
	closing chan struct{}
	closed  *eventFD
	keepers sync.WaitGroup

	mu     sync.Mutex
	wanted *process
	live   *liveProcess
	// restart is closed to call off the restart that is due; nil when none is.
	restart chan struct{}
	backoff time.Duration
}

func newDirect(runDir, logDir string, log *slog.Logger, onExit func(), timing directTiming) (*direct, error) {
	closed, err := newEventFD()
	if err != nil {
		return nil, fmt.Errorf("watch K3s: %w", err)
	}
	d := &direct{
		pidFile: filepath.Join(runDir, "k3s.pid"), logFile: filepath.Join(logDir, "k3s.log"),
		log: log, onExit: onExit, timing: timing, backoff: timing.restartFirst,
		closing: make(chan struct{}), closed: closed,
	}
	if live := d.adopt(); live != nil {
		d.live = live
		d.keep(live)
		d.log.Info("K3s runs already", "role", live.Role, "pid", live.PID)
	}
	return d, nil
}

func (d *direct) start(_ context.Context, p process) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isClosed() {
		return errors.New("start K3s: the driver was closed")
	}
	if d.live != nil && d.live.Role != p.role {
		return fmt.Errorf("start K3s as %s: it runs as %s and has to be stopped first", p.role, d.live.Role)
	}
	d.wanted = &p
	if d.live != nil || d.restart != nil {
		return nil
	}
	return d.spawn(p)
}

// gate holds K3s back until its PID is on disk: were the agent to end in
// between, the next one would start a second K3s. The shell becomes K3s, with
// the same PID and start time, when it reads a line, and ends when there is none.
const gate = `read -r go <&3 && exec 3<&- && exec "$0" "$@"`

// spawn starts p and watches it. The caller holds the lock.
func (d *direct) spawn(p process) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start K3s: %w", err)
		}
	}()
	for _, dir := range []string{filepath.Dir(d.logFile), filepath.Dir(d.pidFile)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := rotateLog(d.logFile, d.timing.maxLog); err != nil {
		return err
	}
	if err := os.RemoveAll(p.remove); err != nil {
		return err
	}
	out, err := os.OpenFile(d.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	held, open, err := os.Pipe()
	if err != nil {
		return err
	}
	defer held.Close()
	defer open.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", gate, p.binary, string(p.role)}, p.args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{held}
	cmd.Env = environment(os.Environ(), p.env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	live, err := watchProcess(cmd.Process.Pid)
	if err == nil {
		live.Role, live.cmd = p.role, cmd
		err = d.writePID(live)
	}
	if err == nil {
		_, err = open.WriteString("go\n")
	}
	if err != nil {
		return errors.Join(err, d.discard(live, cmd))
	}
	d.live = live
	d.keep(live)
	d.log.Info("started K3s", "role", p.role, "pid", live.PID)
	return nil
}

// discard ends a process that is still held back.
func (d *direct) discard(live *liveProcess, cmd *exec.Cmd) error {
	err := cmd.Process.Kill()
	_ = cmd.Wait() // says that it was killed
	if live != nil {
		live.close()
	}
	return err
}

// keep waits for the process to end and starts it again while it is wanted.
func (d *direct) keep(live *liveProcess) {
	begun := time.Now()
	d.keepers.Go(func() {
		why, ended := live.wait(d.closed, d.timing.logEvery, d.checkLog)
		if !ended {
			live.close()
			return // the agent ends, K3s goes on
		}
		d.mu.Lock()
		live.close()
		d.live = nil
		_ = os.Remove(d.pidFile) // stale from here on; a leftover is recognised by its start time
		if time.Since(begun) > d.timing.settled {
			d.backoff = d.timing.restartFirst
		}
		pause := d.backoff
		var restart chan struct{}
		if d.wanted != nil {
			d.backoff = min(2*d.backoff, d.timing.restartMax)
			restart = make(chan struct{})
			d.restart = restart
		}
		close(live.ended)
		d.mu.Unlock()
		d.onExit()
		if restart == nil {
			return
		}
		d.log.Warn("K3s ended", "error", why, "retry", pause, "path", d.logFile)
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-restart:
			return
		case <-d.closing:
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.restart != restart || d.isClosed() {
			return // called off while the timer fired
		}
		d.restart = nil
		if err := d.spawn(*d.wanted); err != nil {
			d.log.Error("restart K3s", "error", err) // the next start tries again
		}
	})
}

func (d *direct) running(_ context.Context, role Role) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.live != nil && d.live.Role == role, nil
}

func (d *direct) stop(ctx context.Context, role Role) error {
	d.mu.Lock()
	if d.wanted != nil && d.wanted.role == role {
		d.wanted = nil
		d.backoff = d.timing.restartFirst
		if d.restart != nil {
			close(d.restart)
			d.restart = nil
		}
	}
	live := d.live
	if live == nil || live.Role != role {
		d.mu.Unlock()
		return nil
	}
	err := live.signal(unix.SIGTERM)
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("stop K3s: %w", err)
	}
	grace := time.NewTimer(d.timing.stopGrace)
	defer grace.Stop()
	for {
		select {
		case <-live.ended:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("stop K3s: %w", ctx.Err())
		case <-d.closing:
			return errors.New("stop K3s: the driver was closed")
		case <-grace.C:
			d.log.Warn("K3s does not end by itself, killing it", "pid", live.PID, "grace", d.timing.stopGrace)
			d.mu.Lock()
			if d.live == live {
				err = live.signal(unix.SIGKILL)
			}
			d.mu.Unlock()
			if err != nil {
				return fmt.Errorf("stop K3s: %w", err)
			}
		}
	}
}

func (d *direct) close() error {
	d.mu.Lock()
	if d.isClosed() {
		d.mu.Unlock()
		return nil
	}
	close(d.closing)
	d.mu.Unlock()
	err := d.closed.set()
	d.keepers.Wait()
	return errors.Join(err, d.closed.close())
}

func (d *direct) isClosed() bool {
	select {
	case <-d.closing:
		return true
	default:
		return false
	}
}

func (d *direct) writePID(live *liveProcess) error {
	text, err := json.Marshal(live)
	if err != nil {
		return err
	}
	return p2p.WriteFile(d.pidFile, text, 0o600)
}

// adopt returns the process of an earlier agent if it is that one and alive.
func (d *direct) adopt() *liveProcess {
	text, err := os.ReadFile(d.pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var was liveProcess
	if err == nil {
		err = json.Unmarshal(text, &was)
	}
	if err == nil && (was.PID <= 1 || was.Role != Server && was.Role != Agent) {
		err = fmt.Errorf("PID %d as %q", was.PID, was.Role)
	}
	if err != nil {
		d.log.Warn("PID file of K3s is unreadable, K3s counts as ended", "path", d.pidFile, "error", err)
		return nil
	}
	live, err := watchProcess(was.PID)
	if err != nil {
		return nil // gone
	}
	if live.Start != was.Start {
		live.close()
		return nil // somebody else's by now
	}
	live.Role = was.Role
	return live
}

func (d *direct) checkLog() {
	if err := rotateLog(d.logFile, d.timing.maxLog); err != nil {
		d.log.Warn("rotate the log of K3s", "error", err)
	}
}
