package ledger

import (
	"bytes"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// fsm shows the replica to Raft.
type fsm struct{ copy *replica }

var _ raft.BatchingFSM = fsm{}

// ApplyBatch implements raft.BatchingFSM: one write to disk for what Raft
// committed together.
func (f fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	var batch []committed
	var at []int
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			batch = append(batch, committed{index: l.Index, data: l.Data})
			at = append(at, i)
		}
	}
	if len(batch) == 0 {
		return out
	}
	for i, r := range f.copy.apply(batch) {
		out[at[i]] = r
	}
	return out
}

// Apply implements raft.FSM.
func (f fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// Snapshot implements raft.FSM. The copy may be ahead of what Raft has applied
// here (the follower stream is faster); a snapshot that holds more than its
// index says is sound, because everything in it is committed and what comes
// twice is skipped.
func (f fsm) Snapshot() (raft.FSMSnapshot, error) { return snapshot(f.copy.encode()), nil }

// Restore implements raft.FSM.
func (f fsm) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, maxSnapshotSize+1))
	if err != nil {
		return fmt.Errorf("restore ledger snapshot: %w", err)
	}
	if err := f.copy.install(b); err != nil {
		return fmt.Errorf("restore ledger snapshot: %w", err)
	}
	return nil
}

type snapshot []byte

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := io.Copy(sink, bytes.NewReader(s)); err != nil {
		_ = sink.Cancel() // the first error says more
		return fmt.Errorf("write ledger snapshot: %w", err)
	}
	return sink.Close()
}

func (s snapshot) Release() {}
