package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/node"
)

func TestAnAgentWithoutItsDataDoesNotBecomeAnotherNode(t *testing.T) {
	token := muster(t, "", "token", "generate").stdout
	file, run, state := write(t, "#cloud-config\np2p: {network_token: "+token+"}\n"), t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(run, "no-persistent"), nil, 0o600))
	r := muster(t, "", "agent", "--config", file, "--run-dir", run, "--state-dir", state)
	require.Equal(t, node.ExitUsage, r.code, "systemd does not start it again")
	require.Contains(t, r.complain, "COS_PERSISTENT")
	entries, err := os.ReadDir(state)
	require.NoError(t, err)
	require.Empty(t, entries)
}
