package config

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// recorder is a Shell that writes down what it is asked to run; lines that hold "fail" do.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Run(_ context.Context, line string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	if strings.Contains(line, "fail") {
		return "", errors.New("exit status 1")
	}
	return "", nil
}

func staged(t *testing.T, stages string) *Config {
	t.Helper()
	dir := write(t, map[string]string{"c.yaml": "#cloud-config\nstages:\n" + stages})
	c, _ := load(t, Sources{Dirs: []string{dir}})
	return c
}

func TestAStageRunsBeforeItselfAndAfter(t *testing.T) {
	c := staged(t, `
  boot.after: [{commands: [four]}]
  boot: [{name: b, after: [{name: "<STDIN>.a"}], commands: [three]}, {name: a, after: [{name: init}], commands: [two]}]
  boot.before: [{commands: [one]}]
  network: [{commands: [never]}]
`)
	shell := &recorder{}
	require.NoError(t, Runner{Shell: shell, Log: slog.New(slog.DiscardHandler)}.RunStage(t.Context(), "boot", c))
	require.Equal(t, []string{"one", "two", "three", "four"}, shell.lines)
	require.NoError(t, Runner{Shell: shell}.RunStage(t.Context(), "absent", c))
	require.NoError(t, Runner{Shell: shell}.RunStage(t.Context(), "boot", &Config{}))
}

func TestAFailedStepIsNamedAndTheOthersRun(t *testing.T) {
	c := staged(t, `
  boot.before: [{name: first, commands: [fail --password hunter2, more]}]
  boot: [{name: second, commands: [fail]}, {name: conditional, if: fail, commands: [never]}, {name: last, commands: [ok]}]
`)
	shell := &recorder{}
	err := Runner{Shell: shell, Log: slog.New(slog.DiscardHandler)}.RunStage(t.Context(), "boot", c)
	require.ErrorContains(t, err, `run stage "boot.before": step "first": `)
	require.ErrorContains(t, err, `run stage "boot": step "second": `)
	require.NotContains(t, err.Error(), "hunter2")
	require.NotContains(t, err.Error(), "conditional")
	require.Contains(t, shell.lines, "more")
	require.Contains(t, shell.lines, "ok")
	require.NotContains(t, shell.lines, "never")
}

func TestStepsWriteFilesAndRunTheSystemsShell(t *testing.T) {
	dir := t.TempDir()
	c := staged(t, `
  boot:
  - name: files
    files: [{path: `+dir+`/a, content: hello, permissions: 0o600}]
  - name: commands
    commands: [cp `+dir+`/a `+dir+`/b]
`)
	require.NoError(t, Runner{}.RunStage(t.Context(), "boot", c))
	data, err := os.ReadFile(filepath.Join(dir, "b"))
	require.NoError(t, err)
	require.Equal(t, "hello", string(data))
	info, err := os.Stat(filepath.Join(dir, "a"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
}

func TestACancelledStageStops(t *testing.T) {
	c := staged(t, "  boot: [{name: one, commands: [x]}]\n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	shell := &recorder{}
	require.ErrorIs(t, Runner{Shell: shell}.RunStage(ctx, "boot", c), context.Canceled)
	require.Empty(t, shell.lines)
}
