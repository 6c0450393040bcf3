package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process names one process for good: a PID alone may be given to another process later, with its start time it cannot.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since the machine booted: field 22 of proc(5) stat
}

// identify returns the process that has pid now.
func identify(pid int) (process, error) {
	start, _, err := readStat(pid)
	if err != nil {
		return process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return process{PID: pid, Start: start}, nil
}

// alive is false for a zombie too: it holds no namespace, file or port any more.
func (p process) alive() bool {
	if p.PID == 0 {
		return false
	}
	start, state, err := readStat(p.PID)
	return err == nil && start == p.Start && state != 'Z' && state != 'X'
}

// open returns a pidfd of p; os.ErrProcessDone if it has ended.
func (p process) open() (int, error) {
	if p.PID == 0 {
		return -1, os.ErrProcessDone
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, os.ErrProcessDone
	}
	if err != nil {
		return -1, fmt.Errorf("process %d: pidfd_open: %w", p.PID, err)
	}
	// The start time is compared only now, when the descriptor pins whoever has the PID.
	if start, _, err := readStat(p.PID); err != nil || start != p.Start {
		_ = unix.Close(fd) // nothing was written through it
		return -1, os.ErrProcessDone
	}
	return fd, nil
}

// signal sends sig to p; os.ErrProcessDone if p has ended.
func (p process) signal(sig unix.Signal) error {
	fd, err := p.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %s to process %d: %w", unix.SignalName(sig), p.PID, err)
	}
	return nil
}

// kill ends p with SIGKILL and returns when it has ended, which for the PID 1 of a node means that every process of the node
// has. A process that had ended before is no error.
func (p process) kill(ctx context.Context) error {
	fd, err := p.open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", p.PID, err)
		}
		if n > 0 {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for process %d to end: %w", p.PID, context.Cause(ctx))
		}
	}
	// Whoever started it reaps it; for all others this is ECHILD, and its parent or the host's init will.
	_, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil)
	return nil
}

// readStat returns start time and state letter of a process from /proc/PID/stat.
func readStat(pid int) (start uint64, state byte, err error) {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, 0, err
	}
	// The second field is the command in parentheses and may itself contain blanks and parentheses.
	end := bytes.LastIndexByte(line, ')')
	if end < 0 {
		return 0, 0, fmt.Errorf("parse /proc/%d/stat", pid)
	}
	// What follows begins with field 3, the state (proc_pid_stat(5)); field 22 is the start time.
	fields := strings.Fields(string(line[end+1:]))
	const stateField, startField = 0, 22 - 3
	if len(fields) <= startField {
		return 0, 0, fmt.Errorf("parse /proc/%d/stat: %d fields", pid, len(fields))
	}
	start, err = strconv.ParseUint(fields[startField], 10, 64)
	return start, fields[stateField][0], err
}

// labProcesses finds the processes that were started for the lab in dir by their arguments: a second net under lab.json.
func labProcesses(dir string) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		p, err := identify(pid)
		if err != nil {
			continue // it ended while we looked
		}
		line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		if len(args) == 5 && args[1] == InitCommand && args[3] == dir {
			found = append(found, p)
		}
	}
	return found, nil
}

// hostPID translates a PID of the node whose PID 1 is init into the PID by which the host knows that process; 0 if there is none.
func hostPID(init process, inside int) int {
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init.PID))
	if err != nil {
		return 0
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if other, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err != nil || other != space {
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			rest, ok := strings.CutPrefix(line, "NSpid:")
			if !ok {
				continue
			}
			pids := strings.Fields(rest)
			if len(pids) > 0 && pids[len(pids)-1] == strconv.Itoa(inside) {
				return pid
			}
		}
	}
	return 0
}

// pollInterval is how often something is looked at that cannot be waited for: a lock of another process, an agent's opinion.
const pollInterval = 100 * time.Millisecond

// pause waits for one interval or until ctx ends.
func pause(ctx context.Context, interval time.Duration) error {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
