package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// InitCommand is the hidden command by which the muster binary becomes PID 1 of a node or the holder of a switch. A binary
// that is given as Options.Binary hands everything after that word to [Init].
const InitCommand = "lab-init"

// File descriptors of a process started by spawn.
const (
	specFD  = 3 // it reads its task from here, as JSON; end of file without one means that its starter died
	replyFD = 4 // it writes replyOK here once it is up, or what went wrong
	claimFD = 5 // switch only: the bound socket that claims its part of the underlay
)

const replyOK = "ok"

// seed is a process that was started and does nothing yet: its starter first writes it down, then lets it grow. So there is
// no moment in which a crash leaves a process that nobody knows.
type seed struct {
	process process
	log     string
	spec    *os.File
	reply   *os.File
}

// spawn starts "BINARY lab-init ROLE DIR NAME" in new namespaces, detached from terminal and session.
func spawn(binary, role, dir, name string, namespaces uintptr, claim *os.File) (_ *seed, err error) {
	logPath := filepath.Join(dir, "log", name+".init.log")
	if err := os.MkdirAll(filepath.Dir(logPath), 0o700); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	specReader, specWriter, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer specReader.Close()
	replyReader, replyWriter, err := os.Pipe()
	if err != nil {
		_ = specWriter.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer replyWriter.Close()
	s := &seed{log: logPath, spec: specWriter, reply: replyReader}
	defer func() {
		if err != nil {
			s.drop()
		}
	}()

	cmd := exec.Command(binary, InitCommand, role, dir, name)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{specReader, replyWriter}
	if claim != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, claim)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: namespaces}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w (a lab needs root and kernel namespaces)", name, err)
	}
	s.process, err = identify(cmd.Process.Pid)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	// From here on the process is known by pidfd and start time; [process.kill] reaps it.
	_ = cmd.Process.Release()
	return s, nil
}

// grow hands the process its task and returns when it reports that it is up.
func (s *seed) grow(ctx context.Context, name string, task any) error {
	defer s.drop()
	raw, err := json.Marshal(task)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	// Nobody needs longer than this to mount and listen; a process that hangs must not hang the command.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		_ = s.spec.SetDeadline(time.Unix(1, 0)) // wakes the calls below; they report
		_ = s.reply.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	_, err = s.spec.Write(raw)
	if err = errors.Join(err, s.spec.Close()); err != nil {
		return fmt.Errorf("start %s: hand over its task: %w%s", name, err, s.lastWords())
	}
	answer, err := io.ReadAll(io.LimitReader(s.reply, 4096))
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("start %s: %w", name, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("start %s: %w", name, err)
	case len(answer) == 0:
		return fmt.Errorf("start %s: its init ended%s", name, s.lastWords())
	case string(answer) != replyOK:
		return fmt.Errorf("start %s: %s", name, answer)
	}
	return nil
}

// drop closes the pipes; a process that has not been given its task then ends by itself.
func (s *seed) drop() {
	_ = s.spec.Close() // closing twice is harmless, and nothing is buffered
	_ = s.reply.Close()
}

func (s *seed) lastWords() string {
	raw, err := os.ReadFile(s.log)
	if err != nil || len(raw) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return ": " + strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// Init is the body of the hidden command: args are ROLE, DIR and NAME. It returns only when it could not start or was told to
// end.
func Init(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("%w: %s is started by `muster lab`, not by hand", ErrUsage, InitCommand)
	}
	raw, err := io.ReadAll(os.NewFile(specFD, "task"))
	if err != nil || len(raw) == 0 {
		return fmt.Errorf("%w: %s got no task: it is started by `muster lab`, not by hand", ErrUsage, InitCommand)
	}
	reply := os.NewFile(replyFD, "reply")
	var run func() error
	switch args[0] {
	case roleSwitch:
		run, err = initSwitch()
	case roleRouter:
		run, err = initRouter(raw)
	case roleSlow:
		run, err = initSlow(raw)
	case roleNode:
		run, err = initNode(raw)
	default:
		err = fmt.Errorf("%w: role %q", ErrUsage, args[0])
	}
	answer := replyOK
	if err != nil {
		answer = err.Error()
	}
	_, werr := reply.WriteString(answer)
	if err := errors.Join(err, werr, reply.Close()); err != nil {
		return err
	}
	return run()
}
