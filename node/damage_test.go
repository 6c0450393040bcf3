package node

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestADamagedFileIsNamedByAnAgentThatStaysUp(t *testing.T) {
	a := newTestAgent(t, "box", loopback(testToken(t), "", 1))
	a.start()
	running := func() bool { return a.phase().Phase == PhaseRunning && len(a.why()) == 0 }
	a.until("running", running)
	before := a.status()
	a.stop()

	ledger := filepath.Join(a.opts.StateDir, "ledger")
	for file, blocked := range map[string]bool{"ledger.json": true, "wal-meta.db": true, "founding.json": false} {
		path := filepath.Join(ledger, file)
		if file == "wal-meta.db" {
			path = filepath.Join(ledger, "raft", file)
		}
		kept, err := os.ReadFile(path)
		require.NoError(t, err)
		spoiled := slices.Clone(kept)
		for i := range spoiled {
			spoiled[i] ^= 0xa5
		}
		require.NoError(t, os.WriteFile(path, spoiled, 0o600))
		a.start()
		a.until(file+" is named", func() bool { return strings.Contains(strings.Join(a.why(), "\n"), "is damaged") })
		if blocked {
			a.until("blocked", func() bool { return a.phase().Phase == PhaseBlocked })
			answer, err := a.client().Status(t.Context())
			require.NoError(t, err)
			require.Equal(t, before.ID, answer.ID)
		} else {
			a.until("running all the same", func() bool { return a.phase().Phase == PhaseRunning })
		}
		a.stop()
		now, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, spoiled, now, "%s is left as it is", file)
		require.NoError(t, os.WriteFile(path, kept, 0o600))
	}
	a.start()
	a.until("running", running)
	require.Equal(t, before.Site, a.status().Site)
}
