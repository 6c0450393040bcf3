package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/node"
)

func TestSlotsAreOnlyTriedAgainInRecovery(t *testing.T) {
	require.Equal(t, node.ExitFailed, muster(t, "", "retry").code)
}

func TestWhoIsLoggedInIsNotThrownOut(t *testing.T) {
	dir := t.TempDir()
	session := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	require.Empty(t, loggedIn(filepath.Join(dir, "none")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "1.ref"), 0o600))
	session("1", "# This is private data. Do not parse.\nUID=0\nUSER=root\nSTATE=active\nCLASS=manager\n")
	session("2", "UID=0\nUSER=eve\nSTATE=closing\nCLASS=user\n")
	require.Empty(t, loggedIn(dir))
	session("3", "UID=0\nUSER=root\nSTATE=active\nREMOTE=1\nCLASS=user-early\n")
	require.Equal(t, "root", loggedIn(dir))
}
