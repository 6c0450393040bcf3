package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// gcPercent lets the heap grow by a quarter before it is collected. WireGuard in
// user space keeps some 25 MB of packet buffers that are mostly untouched; at
// the default of 100 the garbage might grow to as much again, and that would be
// touched. It costs no throughput: a full line collects once a second.
const gcPercent = 25

// unmapEvery is how often the agent gives back what it read of its own program.
// The first time is when a start is surely over.
const unmapEvery = time.Minute

// LimitMemory makes this process an agent: small on an edge box, where the
// memory belongs to the workload. GOGC in the environment wins.
func LimitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// unmapProgram gives back, for as long as ctx lasts, the pages of the program
// file that only the start or something rare needed. Initialising the packages
// touches nearly all of a large static binary, some 40 MB, of which an agent
// goes on to use half. The pages stay in the page cache and come back by minor
// faults, but no longer count as this process's, and are the first that a
// machine short of memory takes.
func unmapProgram(ctx context.Context, log *slog.Logger) {
	ticker := time.NewTicker(unmapEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := unmapPages(); err != nil {
			log.Debug("program's pages stay mapped", LogError, err)
			return
		}
	}
}

// unmapPages drops this process's read-only mappings of its own executable from
// the page table.
func unmapPages() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("read own mappings: %w", err)
	}
	mappings, err := cleanMappings(bytes.NewReader(smaps), program)
	if err != nil {
		return fmt.Errorf("read own mappings: %w", err)
	}
	for _, m := range mappings {
		// MADV_DONTNEED on a private file mapping that was never written reads the same bytes again from the file.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.size, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("unmap own program: %w", errno)
		}
	}
	return nil
}

type mapping struct{ start, size uintptr }

var errNoMapping = errors.New("not a list of mappings")

// cleanMappings returns, from /proc/PID/smaps (proc(5)), the mappings of file
// that can neither be written nor hold a page that was: what a loader relocated
// is not in the file.
func cleanMappings(smaps io.Reader, file string) ([]mapping, error) {
	var found []mapping
	ours := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			return nil, errNoMapping
		}
		name, isField := strings.CutSuffix(fields[0], ":")
		if !isField {
			m, err := parseRange(fields[0])
			if err != nil {
				return nil, err
			}
			ours = len(fields) == 6 && fields[5] == file && strings.HasPrefix(fields[1], "r-")
			if ours {
				found = append(found, m)
			}
			continue
		}
		if ours && fields[1] != "0" && (name == "Private_Dirty" || name == "Anonymous" || name == "Swap") {
			found, ours = found[:len(found)-1], false
		}
	}
	return found, lines.Err()
}

func parseRange(s string) (mapping, error) {
	from, to, _ := strings.Cut(s, "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if err1 != nil || err2 != nil || end <= start {
		return mapping{}, errNoMapping
	}
	return mapping{uintptr(start), uintptr(end - start)}, nil
}
