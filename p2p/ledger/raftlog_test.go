package ledger

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// A voter takes back entries that were never committed when a new coordinator
// tells it so. What is left must be readable after a restart: Raft reads the log
// at once and ends the process if it cannot. (raft-wal v0.4.0 lost it, its issue
// 31.)
func TestALogWhoseEndWasTakenBackSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	open := func() *raftLog {
		l, err := openLog(dir, raftLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		return l
	}
	store := func(l *raftLog, first, last, term uint64) {
		for i := first; i <= last; i++ {
			require.NoError(t, l.StoreLog(&raft.Log{Index: i, Term: term, Data: fmt.Appendf(nil, "%d of %d", i, term)}))
		}
	}
	check := func(l *raftLog) {
		for i := uint64(1); i <= 9; i++ {
			var entry raft.Log
			require.NoError(t, l.GetLog(i, &entry), "entry %d", i)
			term := uint64(1)
			if i > 4 {
				term = 2
			}
			require.Equal(t, fmt.Sprintf("%d of %d", i, term), string(entry.Data))
		}
	}

	l := open()
	store(l, 1, 7, 1)
	require.NoError(t, l.DeleteRange(5, 7))
	store(l, 5, 9, 2)
	check(l)
	require.NoError(t, l.Close())
	for range 2 {
		l = open()
		check(l)
		require.NoError(t, l.Close())
	}

	// Taken back once more, with nothing written after it.
	l = open()
	store(l, 10, 10, 3)
	require.NoError(t, l.DeleteRange(10, 10))
	require.NoError(t, l.Close())
	l = open()
	check(l)
	last, err := l.LastIndex()
	require.NoError(t, err)
	require.Equal(t, uint64(9), last)
	require.NoError(t, l.Close())
}
