package upgrade

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Slot files are preallocated: GRUB must not trip over blocks that were never written.
func TestGRUBItselfReadsKernelAndIdentityAfterAnUpgrade(t *testing.T) {
	d, m := on(t, runsActive)
	_, err := m.Upgrade(t.Context(), &fakeImage{version: "v2"}, Options{})
	require.NoError(t, err)
	read := func(disk, path string) []byte {
		out, err := exec.Command("grub-fstest", disk, "cat", path).Output()
		require.NoError(t, err, path)
		return out
	}
	slot := filepath.Join(tempDir(t), "active.img")
	require.NoError(t, os.WriteFile(slot, read(d.file("state"), "/"+SlotFile(Active)), 0o600))
	require.Equal(t, strings.Repeat("v2boot/vmlinuz", 500), string(read(slot, fileKernel)))
	require.Contains(t, string(read(slot, "/"+ImageDir+"/"+fileGRUB)), "set image_id="+idOf("v2"))
}
