package k3s

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
)

// fakeSystemd is the part of systemd that the driver talks to; e2e/systemd shows
// the same on a real one.
type fakeSystemd struct {
	dir    string
	unit   map[string]any
	pid    uint32
	calls  []string
	result string
	fail   error
}

func newSystemd(t *testing.T) (systemd, *fakeSystemd) {
	f := &fakeSystemd{dir: t.TempDir(), result: "done", unit: map[string]any{
		"LoadState": "not-found", "ActiveState": "inactive", "FragmentPath": "", "NeedDaemonReload": false,
	}}
	return systemd{unitDir: f.dir, connect: func(context.Context) (systemdBus, error) { return f, f.fail }}, f
}

func (f *fakeSystemd) GetUnitPropertiesContext(context.Context, string) (map[string]any, error) {
	return f.unit, nil
}

func (f *fakeSystemd) GetUnitTypePropertyContext(context.Context, string, string, string) (*dbus.Property, error) {
	return &dbus.Property{Value: godbus.MakeVariant(f.pid)}, nil
}

func (f *fakeSystemd) ReloadContext(context.Context) error {
	f.calls = append(f.calls, "reload")
	f.unit["LoadState"], f.unit["NeedDaemonReload"] = "loaded", false
	if f.unit["FragmentPath"] == "" {
		f.unit["FragmentPath"] = filepath.Join(f.dir, "k3s.service")
	}
	return nil
}

func (f *fakeSystemd) StartUnitContext(_ context.Context, name, mode string, _ chan<- string) (int, error) {
	f.calls = append(f.calls, "start "+name)
	f.unit["ActiveState"], f.pid = "activating", 7
	return 1, nil
}

func (f *fakeSystemd) StopUnitContext(_ context.Context, name, mode string, done chan<- string) (int, error) {
	f.calls = append(f.calls, "stop "+name)
	f.unit["ActiveState"], f.pid = "inactive", 0
	if f.result != "" {
		done <- f.result
	}
	return 2, nil
}

func (f *fakeSystemd) Close() {}

func TestSystemdUnitIsWrittenAndStarted(t *testing.T) {
	s, f := newSystemd(t)
	require.NoError(t, s.start(t.Context(), oddProcess()))
	require.Equal(t, []string{"reload", "start k3s.service"}, f.calls)
	for _, name := range []string{"k3s.service", "k3s.service.d/50-muster.conf", "k3s.service.d/50-muster.env"} {
		text, err := os.ReadFile(filepath.Join(f.dir, name))
		require.NoError(t, err)
		// The directory of the test is another each time.
		golden(t, "systemd-"+filepath.Base(name), []byte(strings.ReplaceAll(string(text), f.dir, "/run/systemd/system")))
	}
	info, err := os.Stat(filepath.Join(f.dir, "k3s.service.d/50-muster.env"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "the environment may hold secrets")

	f.calls = nil
	require.NoError(t, s.start(t.Context(), oddProcess()))
	require.Empty(t, f.calls, "nothing has changed")
}

func TestSystemdUnitOfTheImageStaysItsOwn(t *testing.T) {
	s, f := newSystemd(t)
	f.unit["LoadState"], f.unit["FragmentPath"] = "loaded", "/etc/systemd/system/k3s.service"
	require.NoError(t, s.start(t.Context(), process{role: Server, binary: "/usr/bin/k3s"}))
	require.NoFileExists(t, filepath.Join(f.dir, "k3s.service"))
	require.FileExists(t, filepath.Join(f.dir, "k3s.service.d/50-muster.conf"))
	require.NoFileExists(t, filepath.Join(f.dir, "k3s.service.d/50-muster.env"))
}

func TestSystemdIsReloadedWhenAnEarlierAgentDidNotGetToIt(t *testing.T) {
	s, f := newSystemd(t)
	require.NoError(t, s.start(t.Context(), oddProcess()))
	for name, value := range map[string]any{"NeedDaemonReload": true, "LoadState": "not-found"} {
		f.calls, f.unit["ActiveState"] = nil, "inactive"
		f.unit[name] = value
		require.NoError(t, s.start(t.Context(), oddProcess()))
		require.Equal(t, []string{"reload", "start k3s.service"}, f.calls, name)
	}
	// Changed while it runs: for the next start.
	f.calls = nil
	p := oddProcess()
	p.env = nil
	require.NoError(t, s.start(t.Context(), p))
	require.Equal(t, []string{"reload"}, f.calls)
	require.NoFileExists(t, filepath.Join(f.dir, "k3s.service.d/50-muster.env"), "old secrets do not stay")
}

func TestSystemdStopWaitsForTheJob(t *testing.T) {
	s, f := newSystemd(t)
	require.NoError(t, s.stop(t.Context(), Server))
	require.Empty(t, f.calls, "nothing runs")
	require.NoError(t, s.start(t.Context(), oddProcess()))
	running, err := s.running(t.Context(), Server)
	require.NoError(t, err)
	require.True(t, running)
	require.NoError(t, s.stop(t.Context(), Server))
	running, err = s.running(t.Context(), Server)
	require.NoError(t, err)
	require.False(t, running)

	f.unit["ActiveState"], f.result = "activating", "timeout"
	require.ErrorContains(t, s.stop(t.Context(), Server), `unit k3s.service: systemd says "timeout"`)
	f.unit["ActiveState"], f.result = "active", ""
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.stop(ctx, Server), context.Canceled)
	require.NoError(t, s.close())
}

func TestWithoutSystemdTheErrorSaysSo(t *testing.T) {
	s, f := newSystemd(t)
	f.fail = errors.New("no bus")
	require.ErrorContains(t, s.start(t.Context(), oddProcess()), "start K3s: reach systemd: no bus")
	require.ErrorContains(t, s.stop(t.Context(), Agent), "stop K3s: reach systemd: no bus")
	_, err := s.running(t.Context(), Agent)
	require.ErrorContains(t, err, "watch K3s: reach systemd: no bus")
}

func runShell(t *testing.T, script string) (string, error) {
	out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", script).CombinedOutput()
	return string(out), err
}
