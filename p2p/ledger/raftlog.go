package ledger

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
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
	err := checkMeta(filepath.Join(dir, metadb.FileName))
	if err != nil {
		return nil, err
	}
	l := &raftLog{meta: &metadb.BoltMetaDB{}}
	l.WAL, err = wal.Open(dir, wal.WithMetaStore(l.meta), wal.WithSegmentSize(walSegment), wal.WithLogger(logger))
	if err != nil {
		return nil, errors.Join(err, l.meta.Close())
	}
	return l, nil
}

// checkMeta reads all of the log's meta data. Its database maps the file into
// memory and trusts it, so that a damaged one ends the process, at once or when the
// damaged part is met. A copy in memory is read: a database that panicked can neither
// be closed nor opened again.
func checkMeta(path string) (err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("wal-meta", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }() // it was in memory
	if _, err := f.Write(raw); err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	if err := readMetaDB(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func readMetaDB(path string) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%v", fault)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, bucket *bbolt.Bucket) error {
			return bucket.ForEach(func(key, value []byte) error {
				_ = crc32.Update(crc32.ChecksumIEEE(key), crc32.IEEETable, value) // touches them
				return nil
			})
		})
	})
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
