package lan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Sweep removes the namespaces, and what runs in them, of drivers that were killed before they could clean up.
// Namespaces of drivers that live are left alone.
func Sweep() error {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep leftovers of killed runs: %w", err)
	}
	var failures []error
	for _, entry := range entries {
		if owner, ok := Owner(entry.Name()); ok && !Alive(owner) {
			failures = append(failures, remove(entry.Name()))
		}
	}
	return errors.Join(failures...)
}

// Name returns a name for something that belongs to this driver: mb-PID-label.
func Name(label string) string { return prefix + strconv.Itoa(os.Getpid()) + "-" + label }

// Owner returns the process ID of the driver that made a thing with this name, and whether it is such a name.
func Owner(name string) (pid int, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	digits, _, ok := strings.Cut(rest, "-")
	if !ok {
		return 0, false
	}
	pid, err := strconv.Atoi(digits)
	return pid, err == nil && pid > 0
}

// Alive tells whether a process exists.
func Alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// removal bounds the whole of one removal: cleaning up must neither depend on the run's context, which is cancelled
// by then, nor hang.
const removal = 20 * time.Second

func remove(namespace string) error {
	if _, err := os.Stat(directory + namespace); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), removal)
	defer cancel()
	output, err := exec.CommandContext(ctx, "ip", "netns", "pids", namespace).Output()
	if err != nil {
		return fmt.Errorf("list processes of namespace %s: %w", namespace, err)
	}
	for _, field := range strings.Fields(string(output)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return fmt.Errorf("list processes of namespace %s: %w", namespace, err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end process %d of namespace %s: %w", pid, namespace, err)
		}
	}
	return ip(ctx, "netns del "+namespace)
}
