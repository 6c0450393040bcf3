package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	stageDeadline = 60 * time.Second
	// checkDeadline is for a file system that really is to be repaired; a clean one takes milliseconds.
	checkDeadline = 10 * time.Minute
)

// errNoProgram says that the image lacks a program.
var errNoProgram = errors.New("not in the image")

// errOtherImage says that the kernel that runs is not the slot's. GRUB reads no journal: after a power cut in the swap of an
// upgrade it may find the old image under a name that, once mounting has replayed the journal, is the new one's. The next
// start sees what is mounted now.
var errOtherImage = errors.New("the boot loader started another image than the slot holds")

// sameImage checks the id that a slot has inside.
func sameImage(root, id string) error {
	data, err := os.ReadFile(root + "/usr/lib/muster/image/image.json")
	if err != nil {
		return fmt.Errorf("read the slot's identity: %w", err)
	}
	var inside struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(data, &inside); err != nil {
		return fmt.Errorf("read the slot's identity: %w", err)
	}
	if inside.ID != id {
		return fmt.Errorf("%w: %.12s and %.12s", errOtherImage, id, inside.ID)
	}
	return nil
}

// run runs a program of the image in it. The watchdog is pinged meanwhile: the deadline is the limit here.
func (m *machine) run(d time.Duration, names []string, args ...string) (string, error) {
	root := m.path(sysroot)
	var name string
	for _, n := range names {
		if info, err := os.Stat(root + n); err == nil && info.Mode().IsRegular() {
			name = n
			break
		}
	}
	if name == "" {
		return "", fmt.Errorf("%s: %w", names[0], errNoProgram)
	}
	ctx, cancel := context.WithDeadline(context.Background(), m.deadline(d))
	defer cancel()
	var out strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.Env = initEnvironment
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // a grandchild may hold the output open
	cmd.Err = nil               // the name is looked up in the image, not here
	outcome := func(err error) error {
		if ctx.Err() != nil {
			err = fmt.Errorf("not done after %s", d)
		}
		if err != nil {
			err = fmt.Errorf("run %s: %w", strings.Join(append([]string{name}, args...), " "), err)
		}
		return err
	}
	if err := cmd.Start(); err != nil {
		return "", outcome(err)
	}
	finished := make(chan error, 1)
	go func() { finished <- cmd.Wait() }()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case err := <-finished:
			return out.String(), outcome(err)
		case <-ticker.C:
			m.watchdog.ping()
		}
	}
}

// stage runs a stage of the cloud-config. What it prints is shown only when it fails.
func (m *machine) stage(name string) error {
	out, err := m.run(stageDeadline, []string{"/usr/bin/muster"}, "stages", "run", name)
	if err != nil {
		m.logf("stage %s: %s", name, tail(out))
		return fmt.Errorf("stage %s: %w", name, err)
	}
	return nil
}

// check repairs what is safe to repair. The exit codes are e2fsck(8)'s: below 4 the file system is clean afterwards.
func (m *machine) check(device string) error {
	out, err := m.run(checkDeadline, []string{"/usr/sbin/e2fsck", "/sbin/e2fsck"}, "-p", device)
	var exit *exec.ExitError
	switch {
	case errors.Is(err, errNoProgram):
		return nil // mounting replays the journal
	case errors.As(err, &exit) && exit.ExitCode() > 0 && exit.ExitCode() < 4:
		m.logf("%s: repaired: %s", device, tail(out))
		return nil
	case err != nil:
		m.logf("%s: %s", device, tail(out))
		return fmt.Errorf("check %s: %w", device, err)
	}
	return nil
}

// tail is the end of a program's output, in one line.
func tail(out string) string {
	out = strings.TrimSpace(out)
	const limit = 600
	if len(out) > limit {
		out = "…" + strings.ToValidUTF8(out[len(out)-limit:], "")
	}
	return strings.ReplaceAll(out, "\n", "; ")
}
