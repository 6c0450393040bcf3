package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/go-hclog"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
)

// walSegment is what raft-wal preallocates per file; a decision has some hundred
// bytes, so one segment holds more than TrailingLogs of them.
const walSegment = 1 << 20

// raftLog is Raft's log and its votes on disk, each write fsynced.
type raftLog struct {
	*wal.WAL
	meta *metadb.BoltMetaDB
}

func openLog(dir string, logger hclog.Logger) (*raftLog, error) {
	l := &raftLog{meta: &metadb.BoltMetaDB{}}
	var err error
	l.WAL, err = wal.Open(dir, wal.WithMetaStore(l.meta), wal.WithSegmentSize(walSegment), wal.WithLogger(logger))
	if err != nil {
		return nil, errors.Join(err, l.meta.Close())
	}
	return l, nil
}

// Close closes the log and its meta data, which raft-wal leaves open and
// locked.
func (l *raftLog) Close() error { return errors.Join(l.WAL.Close(), l.meta.Close()) }

// lockDir keeps a second process out of the folder: two voters with one log, or
// a wait without end for the log's own lock. The lock ends with the process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another process: %w", dir, err), f.Close())
	}
	return f, nil
}
