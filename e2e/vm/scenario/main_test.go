package scenario

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// work is where disks and images of this run are.
var work string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	removeStale()
	var err error
	if work, err = os.MkdirTemp("", fmt.Sprintf("%s%d-", workPrefix, os.Getpid())); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(work)
	// Machines and networks go with the process; gigabytes of disks would not.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-interrupted
		_ = os.RemoveAll(work) // as much as there is time for
		os.Exit(130)
	}()
	return m.Run()
}

const workPrefix = "muster-vm-"

// removeStale removes what runs have left that were killed or ran out of time.
func removeStale() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), workPrefix+"*")) // the pattern is right
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), workPrefix), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			_ = os.RemoveAll(dir) // the next run tries again
		}
	}
}
