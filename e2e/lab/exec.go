package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command is a command to run in a node.
type Command struct {
	Args   []string
	Env    []string // added to the node's own
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// Exec runs a command in a node and returns what it wrote to standard output. If it ends with anything but 0, the error is an
// [ExitError] that carries its code, wrapped in one that tells what it wrote to standard error.
func (l *Lab) Exec(ctx context.Context, name string, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	err := l.Run(ctx, name, Command{Args: args, Stdout: &out, Stderr: &errOut})
	if err != nil && errOut.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), err
}

// Run runs a command in a node, in all its namespaces, and waits for it. Streams that are files are handed over as they are, so
// a terminal stays a terminal. The command ends with ctx.
func (l *Lab) Run(ctx context.Context, name string, c Command) error {
	s, n, err := l.find(name)
	if err != nil {
		return err
	}
	return s.run(ctx, n, c)
}

func (s *state) run(ctx context.Context, n *node, c Command) error {
	if len(c.Args) == 0 {
		return fmt.Errorf("%w: no command to run in %s", ErrUsage, n.Name)
	}
	if !n.Init.alive() {
		return fmt.Errorf("%s: %w", n.Name, ErrNodeDown)
	}
	err := onThread(func() error {
		if err := enter(n.Init); err != nil {
			return err
		}
		return s.runHere(ctx, n, c)
	})
	if err != nil {
		return fmt.Errorf("%s: %s: %w", n.Name, filepath.Base(c.Args[0]), err)
	}
	return nil
}

// runHere runs the command on a thread that has entered the node.
func (s *state) runHere(ctx context.Context, n *node, c Command) error {
	path, err := lookPath(c.Args[0])
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Args = c.Args
	cmd.Dir = "/root"
	cmd.Env = append(nodeEnviron(n.Hardware, s.Env), c.Env...)
	if term := os.Getenv("TERM"); term != "" {
		cmd.Env = append(cmd.Env, "TERM="+term)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	// Something that the command left in the background may hold its output open.
	cmd.WaitDelay = 2 * time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil && err != nil:
		return context.Cause(ctx)
	case errors.As(err, &exit):
		status, ok := exit.Sys().(syscall.WaitStatus)
		if ok && status.Signaled() {
			return &ExitError{Code: 128 + int(status.Signal())}
		}
		return &ExitError{Code: exit.ExitCode()}
	}
	return err
}

// lookPath finds a program along the node's PATH; called on a thread that has entered the node. A shell's code for a command
// that is not there is 127.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(nodePath, ":") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("not found in the node: %w", &ExitError{Code: 127})
}

// enter moves the calling thread, which must be one of [onThread], into the namespaces of a node. Children that it
// starts are in the node's PID namespace too.
func enter(init process) error {
	fd, err := init.open()
	if errors.Is(err, os.ErrProcessDone) {
		return ErrNodeDown
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Threads share root and working directory; a thread can change mount namespace only with its own.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter the node: unshare: %w", err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWNET|unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("enter the node: setns: %w", err)
	}
	return nil
}
