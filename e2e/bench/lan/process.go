package lan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Grace is how long a process may take to end after SIGTERM before it is killed.
const Grace = 5 * time.Second

// Process is a program that runs until Stop, with its output in a file.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

// Start starts cmd with its output in the file log. Its process group is its own, so that ctrl-C reaches the driver
// alone and things end in the driver's order.
func Start(name string, cmd *exec.Cmd, log string) (*Process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// PID returns the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exited returns whether the process has ended, and if so how: nil for exit code 0, else an error that carries the
// last lines that it wrote.
func (p *Process) Exited() (bool, error) {
	select {
	case <-p.done:
	default:
		return false, nil
	}
	if p.err == nil {
		return true, nil
	}
	return true, fmt.Errorf("%s: %w: %s", p.name, p.err, p.Tail())
}

// Tail returns the last lines of the process's output, on one line.
func (p *Process) Tail() string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return Tail(content)
}

// Tail returns the last lines of an output, on one line, short enough for an error message.
func Tail(output []byte) string {
	const lines, size = 5, 800
	all := strings.Split(strings.TrimSpace(string(output)), "\n")
	tail := strings.Join(all[max(0, len(all)-lines):], " | ")
	return tail[max(0, len(tail)-size):]
}

// Stop asks the process to end, kills it after Grace, and returns when it is gone.
func (p *Process) Stop() error {
	if gone, _ := p.Exited(); gone {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), Grace)
	defer cancel()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	<-p.done
	return nil
}
