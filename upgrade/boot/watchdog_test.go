package boot

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheWatchdogIsPingedDuringALongStepButNotForEver(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "watchdog"))
	require.NoError(t, err)
	defer file.Close()
	synctest.Test(t, func(t *testing.T) {
		w := &watchdog{file: file}
		require.NoError(t, w.during(seedDeadline, func() error {
			<-time.After(2*time.Minute + time.Millisecond)
			return nil
		}))
		require.EqualValues(t, 120, w.pings.Load())
		require.ErrorIs(t, w.during(time.Minute, func() error {
			<-time.After(time.Hour)
			return os.ErrDeadlineExceeded
		}), os.ErrDeadlineExceeded)
		require.InDelta(t, 180, w.pings.Load(), 1)
		require.NoError(t, (*watchdog)(nil).during(time.Minute, func() error { return nil }))
	})
}
