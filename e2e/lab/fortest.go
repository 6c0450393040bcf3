package lab

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Tester is the part of testing.TB that [ForTest] uses; this package is linked into muster, which must not carry package testing.
type Tester interface {
	Helper()
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	TempDir() string
}

// ForTest brings up a lab that is taken down when the test ends. Without Options.Dir it lives in the test's temporary directory.
// If the test failed, the end of every agent's log goes to the test's.
func ForTest(ctx context.Context, t Tester, opts Options) *Lab {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = filepath.Join(t.TempDir(), "lab")
	}
	l, err := New(opts)
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			l.logTails(t)
		}
		// The test's own context has ended by now.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
		defer cancel()
		if err := l.Down(ctx); err != nil {
			t.Fatalf("%v", err)
		}
	})
	if err := l.Up(ctx); err != nil {
		t.Fatalf("%v", err)
	}
	return l
}

// downTimeout is how long taking a test's lab down may need.
const downTimeout = time.Minute

// tailLines is how much of each log a failed test shows.
const tailLines = 40

func (l *Lab) logTails(t Tester) {
	// The patterns are constant: they have no error.
	logs, _ := filepath.Glob(filepath.Join(l.dir, "log", "*.log"))
	k3s, _ := filepath.Glob(filepath.Join(l.dir, "nodes", "*", "var-log", "k3s.log"))
	for _, path := range append(k3s, logs...) {
		raw, err := os.ReadFile(path)
		if err != nil || len(raw) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
		name, _ := filepath.Rel(l.dir, path)
		t.Logf("%s:\n%s", name, strings.Join(lines[max(0, len(lines)-tailLines):], "\n"))
	}
}
