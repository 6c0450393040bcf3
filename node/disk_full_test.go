package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of that many bytes and returns what fills it.
func smallDisk(t *testing.T, dir string, options string) (fill func()) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	return func() {
		f, err := os.Create(filepath.Join(dir, "rubbish"))
		require.NoError(t, err)
		defer f.Close()
		for block := make([]byte, 64<<10); len(block) > 0; {
			if _, err := f.Write(block); err != nil {
				require.True(t, errors.Is(err, unix.ENOSPC), err)
				block = block[:len(block)/2]
			}
		}
	}
}

func TestANodeComesUpOnAFullDiskAndSaysSo(t *testing.T) {
	a := newTestAgent(t, "n1", loopback(testToken(t), "", 1))
	a.stop()
	fill := smallDisk(t, a.opts.StateDir, "size=16m")
	t.Cleanup(a.stop) // before the disk goes away
	a.start()
	a.until("it has an address", func() bool {
		s, err := a.client().Status(t.Context())
		return err == nil && s.Phase == PhaseRunning
	})
	a.stop()
	fill()

	a.start()
	a.until("it runs again and says what is wrong", func() bool {
		s, err := a.client().Status(t.Context())
		return err == nil && s.Phase == PhaseRunning && strings.Contains(strings.Join(s.WaitingFor, "\n"), "no space left on device")
	})
	require.NoError(t, os.Remove(filepath.Join(a.opts.StateDir, "rubbish")))
	a.until("it is well when there is room again", func() bool {
		s, err := a.client().Status(t.Context())
		return err == nil && s.Phase == PhaseRunning && len(s.WaitingFor) == 0
	})
}
