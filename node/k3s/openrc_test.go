package k3s

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeOpenRC is rc-service with its services in memory.
type fakeOpenRC struct {
	on    map[string]bool
	calls []string
	fail  error
}

type exitCode int

func (e exitCode) Error() string { return "exit status" }
func (e exitCode) ExitCode() int { return int(e) }

func (f *fakeOpenRC) command(_ context.Context, args ...string) ([]byte, error) {
	f.calls = append(f.calls, strings.Join(args, " "))
	if f.fail != nil {
		return []byte("some output\n"), f.fail
	}
	service := args[0]
	switch args[1] {
	case "start":
		f.on[service] = true
	case "stop":
		f.on[service] = false
	case "status":
		if !f.on[service] {
			return []byte(" * status: stopped"), exitCode(3)
		}
	}
	return nil, nil
}

func newOpenRC(t *testing.T) (openrc, *fakeOpenRC) {
	f := &fakeOpenRC{on: map[string]bool{}}
	return openrc{initDir: t.TempDir(), command: f.command}, f
}

func oddProcess() process {
	return process{
		role: Server, binary: "/usr/bin/k3s", remove: passwdFile, args: []string{"--disable", "a b", "--x=it's $HOME \"%i\" \\"},
		env: map[string]string{"HTTP_PROXY": "http://proxy:3128", "QUOTED": "it's $HOME \"%i\" \\ `id`"},
	}
}

func TestOpenRCServiceIsWrittenAndStarted(t *testing.T) {
	o, f := newOpenRC(t)
	require.NoError(t, o.start(t.Context(), oddProcess()))
	text, err := os.ReadFile(filepath.Join(o.initDir, "k3s"))
	require.NoError(t, err)
	golden(t, "openrc-k3s", text)
	info, err := os.Stat(filepath.Join(o.initDir, "k3s"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm(), "the environment may hold secrets")
	require.Equal(t, []string{"k3s status", "k3s start"}, f.calls)

	f.calls = nil
	require.NoError(t, o.start(t.Context(), oddProcess()))
	require.Equal(t, []string{"k3s status"}, f.calls, "what runs is not started again")
}

// The script is evaluated as OpenRC does it, with a program that prints its
// words in the place of K3s.
func TestOpenRCHandsEveryWordToK3s(t *testing.T) {
	p := oddProcess()
	p.binary = filepath.Join(t.TempDir(), "k3s")
	require.NoError(t, os.WriteFile(p.binary, []byte("#!/bin/sh\nprintf '%s|' \"$@\"\n"), 0o700))
	for _, p.remove = range []string{"", filepath.Join(t.TempDir(), "pass wd")} {
		if p.remove != "" {
			require.NoError(t, os.WriteFile(p.remove, nil, 0o600))
		}
		out, err := runShell(t, "depend() { :; }\n"+initScript(p)+"\nset --\neval \"$command $command_args\"; printf '%s' \"$QUOTED\"")
		require.NoError(t, err)
		require.Equal(t, "server|--disable|a b|--x="+p.args[2][4:]+"|"+p.env["QUOTED"], out)
		require.NoFileExists(t, p.remove)
	}
}

func TestOpenRCStatusIsAnExitCode(t *testing.T) {
	o, f := newOpenRC(t)
	running, err := o.running(t.Context(), Agent)
	require.NoError(t, err)
	require.False(t, running)
	require.NoError(t, o.stop(t.Context(), Agent))
	require.Empty(t, f.calls, "a service that was never made is not asked about")

	require.NoError(t, o.start(t.Context(), process{role: Agent, binary: "/usr/bin/k3s"}))
	running, err = o.running(t.Context(), Agent)
	require.NoError(t, err)
	require.True(t, running)
	require.NoError(t, o.stop(t.Context(), Agent))
	require.NoError(t, o.stop(t.Context(), Agent))
	running, err = o.running(t.Context(), Agent)
	require.NoError(t, err)
	require.False(t, running)

	f.fail = errors.New("no such program")
	_, err = o.running(t.Context(), Agent)
	require.ErrorContains(t, err, "rc-service k3s-agent status: no such program: some output")
	require.ErrorContains(t, o.stop(t.Context(), Agent), "stop K3s: rc-service k3s-agent stop")
	require.NoError(t, o.close())
}
