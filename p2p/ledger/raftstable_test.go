package ledger

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// brokenStore writes nothing until it is mended.
type brokenStore struct {
	raft.StableStore
	mended time.Time
}

func (b *brokenStore) SetUint64(key []byte, value uint64) error {
	if time.Now().Before(b.mended) {
		return errors.New("no space left on device")
	}
	return b.StableStore.SetUint64(key, value)
}

func TestATermWaitsForTheDiskInsteadOfEndingTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &brokenStore{StableStore: raft.NewInmemStore(), mended: time.Now().Add(time.Minute)}
		s := newPatientStore(disk, slog.New(slog.DiscardHandler))
		require.Error(t, s.SetUint64([]byte("LastVoteTerm"), 2), "a vote that is not on disk is not given")

		saved := make(chan error, 1)
		go func() { saved <- s.SetUint64([]byte(termKey), 2) }()
		time.Sleep(30 * time.Second)
		require.ErrorContains(t, s.err(), "no space left")
		require.Empty(t, saved)
		require.NoError(t, <-saved)
		require.NoError(t, s.err())
		term, err := s.GetUint64([]byte(termKey))
		require.NoError(t, err)
		require.Equal(t, uint64(2), term)
	})
}

func TestAWaitForTheDiskEndsWithTheLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &brokenStore{StableStore: raft.NewInmemStore(), mended: time.Now().Add(time.Hour)}
		s := newPatientStore(disk, slog.New(slog.DiscardHandler))
		saved := make(chan error, 1)
		go func() { saved <- s.SetUint64([]byte(termKey), 2) }()
		synctest.Wait()
		s.stop()
		s.stop()
		require.NoError(t, <-saved)
		require.Error(t, s.SetUint64([]byte("LastVoteTerm"), 2))
	})
}

func TestATermThatIsOnDiskNeedsNoDisk(t *testing.T) {
	inner := raft.NewInmemStore()
	require.NoError(t, inner.SetUint64([]byte(termKey), 2))
	s := newPatientStore(&brokenStore{StableStore: inner, mended: time.Now().Add(time.Hour)}, slog.New(slog.DiscardHandler))
	require.NoError(t, s.SetUint64([]byte(termKey), 2))
	require.NoError(t, s.err())
}
