package ledger

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// termKey is where raft keeps its term, the one value whose loss it answers
	// with a panic.
	termKey   = "CurrentTerm"
	termRetry = time.Second
)

// patientStore is the Raft storage of terms and votes on a disk that may refuse
// to write. Raft ends the whole process when a term cannot be saved, and with it
// a data path in user space; here it waits until the disk writes again. A voter
// that waits is as good as dead to the others, who go on without it.
type patientStore struct {
	raft.StableStore
	log  *slog.Logger
	done chan struct{}
	stop func() // ends every wait, before Raft shuts down; idempotent

	mu      sync.Mutex
	problem error
}

func newPatientStore(inner raft.StableStore, log *slog.Logger) *patientStore {
	s := &patientStore{StableStore: inner, log: log, done: make(chan struct{})}
	s.stop = sync.OnceFunc(func() { close(s.done) })
	return s
}

// SetUint64 implements raft.StableStore. After stop a term that could not be
// saved is none the less reported as saved: nothing follows from it, since the
// vote that would is saved separately, and refused when that fails.
//
// A term that is on disk already is not written again: Raft does that at every
// start, which must work on a disk that cannot be written.
func (s *patientStore) SetUint64(key []byte, value uint64) error {
	if saved, err := s.GetUint64(key); string(key) == termKey && err == nil && saved == value {
		return nil
	}
	for {
		err := s.StableStore.SetUint64(key, value)
		if string(key) != termKey {
			return err
		}
		s.note(err)
		if err == nil {
			return nil
		}
		retry := time.NewTimer(termRetry)
		select {
		case <-retry.C:
		case <-s.done:
			retry.Stop()
			return nil
		}
	}
}

func (s *patientStore) note(err error) {
	s.mu.Lock()
	first := s.problem == nil && err != nil
	if s.problem = err; err != nil {
		s.problem = fmt.Errorf("write Raft's term: %w", err)
	}
	s.mu.Unlock()
	if first {
		s.log.Error("this master takes no part in decisions until its disk can be written", "error", err)
	}
}

// err says what keeps a term from being saved, nil if nothing does.
func (s *patientStore) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}
