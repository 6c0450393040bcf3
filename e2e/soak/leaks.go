package soak

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is what one agent holds.
type usage struct {
	Goroutines, Files int
	Memory            int64 // resident, bytes
	State             int64 // of the state directory, bytes
	StateFiles        int
}

// What an agent may hold more than it did when the site had just settled. Garbage collection and connections that are being
// replaced come and go; a leak grows with every action.
const (
	moreGoroutines = 120
	moreFiles      = 40
	moreMemory     = 40e6
	moreState      = 32 << 20
	moreStateFiles = 60
	// quiet is for how long nothing is done before agents are looked at, so that what was begun has ended.
	quiet = 45 * time.Second
)

// usage looks at every agent.
func (s *soak) usage(ctx context.Context) (map[string]usage, error) {
	if err := wait(ctx, quiet); err != nil {
		return nil, err
	}
	rows, err := s.Status(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]usage{}
	for _, row := range rows {
		u, err := usageOf(ctx, row.AgentPID)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", row.Node, err)
		}
		err = filepath.WalkDir(filepath.Join(s.NodeDir(row.Node), "usr-local", ".muster"), func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil // replaced while we looked
			}
			if info, err := d.Info(); err == nil {
				u.State += info.Size()
				u.StateFiles++
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		all[row.Node] = u
	}
	return all, nil
}

func usageOf(ctx context.Context, pid int) (usage, error) {
	u := usage{}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return u, err
	}
	u.Files = len(files)
	metrics, err := readMetrics(ctx, fmt.Sprintf("/proc/%d/root/run/muster/muster.sock", pid))
	if err != nil {
		return u, err
	}
	u.Goroutines, u.Memory = int(metrics["go_goroutines"]), int64(metrics["process_resident_memory_bytes"])
	if u.Goroutines == 0 || u.Memory == 0 {
		return u, fmt.Errorf("the agent's metrics lack goroutines or memory")
	}
	return u, nil
}

// readMetrics returns the values that have no labels.
func readMetrics(ctx context.Context, socket string) (map[string]float64, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	values := map[string]float64{}
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			values[name] = v
		}
	}
	return values, nil
}

// lookForLeaks compares what agents hold with what they held, or for nodes that came later, with the most that any held.
func (s *soak) lookForLeaks(ctx context.Context) error {
	if s.violations > 0 {
		return nil
	}
	now, err := s.usage(ctx)
	if err != nil {
		return err
	}
	var most usage
	for _, u := range s.first {
		most.Goroutines, most.Files = max(most.Goroutines, u.Goroutines), max(most.Files, u.Files)
		most.Memory, most.State, most.StateFiles = max(most.Memory, u.Memory), max(most.State, u.State), max(most.StateFiles, u.StateFiles)
	}
	for node, u := range now {
		s.say("%s: %d goroutines, %d files, %.1f MB; %d files of %.1f MB on disk; at first %+v", node, u.Goroutines, u.Files,
			float64(u.Memory)/1e6, u.StateFiles, float64(u.State)/1e6, s.first[node])
		for _, leak := range leaks(most, u) {
			s.leaks++
			s.say("LEAK: %s: %s", node, leak)
		}
	}
	return nil
}

// leaks says in which ways an agent holds more than it should.
func leaks(before, now usage) (found []string) {
	for _, w := range []struct {
		what              string
		before, now, more int64
	}{
		{"goroutines", int64(before.Goroutines), int64(now.Goroutines), moreGoroutines},
		{"open files", int64(before.Files), int64(now.Files), moreFiles},
		{"bytes of memory", before.Memory, now.Memory, moreMemory},
		{"bytes on disk", before.State, now.State, moreState},
		{"files on disk", int64(before.StateFiles), int64(now.StateFiles), moreStateFiles},
	} {
		if w.now > w.before+w.more {
			found = append(found, fmt.Sprintf("%d %s, %d at first", w.now, w.what, w.before))
		}
	}
	return found
}
