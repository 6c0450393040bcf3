package deploy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestAMountThatIsBusyForAMomentIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	f, err := os.Create(filepath.Join(dir, "open"))
	require.NoError(t, err)
	closed := time.AfterFunc(50*time.Millisecond, func() { _ = f.Close() })
	defer closed.Stop()
	require.NoError(t, unmount(dir))
}

func TestAFailureDetachesTheDevice(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	require.NoError(t, sparseFile(disk, 64*mib))
	ill := errors.New("ill")
	ctx, cancel := context.WithCancel(t.Context())
	err := makeFilesystem(ctx, disk, Partition{Name: "x", Label: "X", Start: mib, Size: 32 * mib}, func(string) error {
		cancel()
		return ill
	})
	require.ErrorIs(t, err, ill)
	nothingLeft(t, dir)
}
