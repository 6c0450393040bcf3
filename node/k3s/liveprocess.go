package k3s

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// liveProcess names a process for certain: a PID alone may have been given to
// another one.
type liveProcess struct {
	PID int `json:"pid"`
	// Start is the process's start time in clock ticks since boot, field 22 of
	// proc(5) stat.
	Start uint64 `json:"start"`
	Role  Role   `json:"role"`

	// fd is the process's pidfd, cmd nil for one that an earlier agent started.
	fd  int
	cmd *exec.Cmd
	// ended is closed when the process has ended and been forgotten.
	ended chan struct{}
}

// watchProcess opens a process that lives. The caller closes it.
func watchProcess(pid int) (*liveProcess, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	// In this order the start time is the one of the process behind fd, or there
	// is an error.
	start, err := startTime(pid)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &liveProcess{PID: pid, Start: start, fd: fd, ended: make(chan struct{})}, nil
}

func (l *liveProcess) close() {
	_ = unix.Close(l.fd) // nothing is written to it
	l.fd = -1
}

// signal sends to this very process; one that has ended is no error.
func (l *liveProcess) signal(s unix.Signal) error {
	if err := unix.PidfdSendSignal(l.fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", l.PID, err)
	}
	return nil
}

// wait returns why the process ended, or false when closed was set first. It
// calls tick now and then.
func (l *liveProcess) wait(closed *eventFD, every time.Duration, tick func()) (why error, ended bool) {
	fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}, {Fd: int32(closed.fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(every.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("watch process %d: %w", l.PID, err), true
		case n == 0:
			tick()
		case fds[0].Revents != 0:
			return l.reap(), true
		default:
			return nil, false
		}
	}
}

// reap takes the exit status of a process that has ended.
func (l *liveProcess) reap() error {
	if l.cmd != nil {
		if err := l.cmd.Wait(); err != nil {
			return err
		}
		return errors.New("exit status 0")
	}
	// An agent that replaced itself by exec is still the parent, others are not.
	var status unix.WaitStatus
	if pid, err := unix.Wait4(l.PID, &status, unix.WNOHANG, nil); err != nil || pid != l.PID {
		return errors.New("ended")
	}
	return fmt.Errorf("exit status %d, signal %d", status.ExitStatus(), status.Signal())
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
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// eventFD wakes those that poll it, once and for good.
type eventFD struct{ fd int }

func newEventFD() (*eventFD, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an event descriptor: %w", err)
	}
	return &eventFD{fd: fd}, nil
}

func (e *eventFD) set() error {
	_, err := unix.Write(e.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return err
}

func (e *eventFD) close() error { return unix.Close(e.fd) }
