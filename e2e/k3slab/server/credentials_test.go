package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/k3slab/flags"
)

// prepare runs the credentials' part of a server start in dir.
func prepare(t *testing.T, dir string, args ...string) (*server, error) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(config, nil, 0o600))
	args = append([]string{"--config", config, "--data-dir", dir, "--node-ip=127.0.0.1", "--write-kubeconfig", filepath.Join(dir, "k3s.yaml")}, args...)
	options, err := flags.Parse(args, func(string) string { return "" }, func(string) {})
	require.NoError(t, err)
	s, err := newServer(options)
	require.NoError(t, err)
	return s, s.prepareCredentials(t.Context())
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	require.NoError(t, err)
	return strings.TrimSpace(string(b))
}

func TestAFirstServerLeavesItsTokensWhereK3sDoes(t *testing.T) {
	dir := t.TempDir()
	s, err := prepare(t, dir, "--token=one", "--agent-token=two", "--write-kubeconfig-mode=0644")
	require.NoError(t, err)
	full := read(t, dir, "server/token")
	require.Equal(t, "K10"+s.credentials.own.CAHash+"::server:one", full)
	require.Equal(t, full, read(t, dir, "server/node-token"))
	require.Equal(t, "K10"+s.credentials.own.CAHash+"::node:two", read(t, dir, "server/agent-token"))
	info, err := os.Stat(filepath.Join(dir, "k3s.yaml"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), info.Mode().Perm())
}

func TestARestartKeepsTheIdentity(t *testing.T) {
	dir := t.TempDir()
	_, err := prepare(t, dir)
	require.NoError(t, err)
	drawn := read(t, dir, "server/token")
	require.Equal(t, drawn, read(t, dir, "server/agent-token"), "without a token of their own agents use the server's")
	for _, args := range [][]string{nil, {"--token=" + drawn}} {
		_, err = prepare(t, dir, args...)
		require.NoError(t, err)
		require.Equal(t, drawn, read(t, dir, "server/token"))
	}
	// Another server that is down does not keep this one from coming back.
	_, err = prepare(t, dir, "--token="+drawn, "--server=https://127.0.0.1:1")
	require.NoError(t, err)
	require.Equal(t, drawn, read(t, dir, "server/token"))
}

func TestARestartWithAnotherTokenIsRefused(t *testing.T) {
	dir := t.TempDir()
	_, err := prepare(t, dir, "--token=one")
	require.NoError(t, err)
	_, err = prepare(t, dir, "--token=two")
	require.ErrorContains(t, err, "different token")
}

func TestJoiningNeedsAToken(t *testing.T) {
	_, err := prepare(t, t.TempDir(), "--server=https://127.0.0.1:1")
	require.ErrorContains(t, err, "--token is required")
}

func TestAServerWithAnotherAgentTokenStartsOnceUnlessItsPasswordsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	_, err := prepare(t, dir, "--token=one", "--agent-token=two")
	require.NoError(t, err)
	for range 2 {
		s, err := prepare(t, dir, "--token=one", "--agent-token=three")
		require.NoError(t, err)
		require.Equal(t, "three", s.credentials.agentPassword)
		_, err = prepare(t, dir, "--token=one", "--agent-token=three")
		require.ErrorContains(t, err, "cred/passwd newer than datastore")
		require.NoError(t, os.Remove(filepath.Join(dir, "server/cred/passwd")))
	}
}
