package upgrade

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/upgrade/image"
)

// linkingImage has a link out of its tree where the slot's description goes.
type linkingImage struct {
	fakeImage
	to string
}

func (l *linkingImage) Unpack(ctx context.Context, dir string, progress func(image.Progress)) error {
	if err := l.fakeImage.Unpack(ctx, dir, progress); err != nil {
		return err
	}
	return os.Symlink(l.to, filepath.Join(dir, "usr/lib/muster"))
}

func TestALinkInAnImageLeadsNoWriteOutOfIt(t *testing.T) {
	outside := t.TempDir()
	slot := filepath.Join(tempDir(t), "slot.img")
	err := WriteSlot(t.Context(), &linkingImage{fakeImage{version: "v1"}, outside}, slot, SlotOptions{Size: testSlotSize})
	require.Error(t, err)
	require.NoFileExists(t, slot)
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries)
}
