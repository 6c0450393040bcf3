package grub

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// memoryDisk is a disk that fails to write after so many writes; it notes where they went.
type memoryDisk struct {
	data   []byte
	fail   int
	writes []int64
}

func (d *memoryDisk) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(d.data)) {
		return 0, io.EOF
	}
	return copy(p, d.data[off:]), nil
}

func (d *memoryDisk) WriteAt(p []byte, off int64) (int, error) {
	if d.fail > 0 && len(d.writes) == d.fail-1 {
		return 0, errors.New("broken")
	}
	d.writes = append(d.writes, off)
	return copy(d.data[off:], p), nil
}

func loaderFiles(t *testing.T) (boot, core []byte) {
	dir := t.TempDir()
	tool(t, "./mkimage", dir)
	boot, err := os.ReadFile(filepath.Join(dir, "boot.img"))
	require.NoError(t, err)
	core, err = os.ReadFile(filepath.Join(dir, "core.img"))
	require.NoError(t, err)
	efi, err := os.ReadFile(filepath.Join(dir, "BOOTX64.EFI"))
	require.NoError(t, err)
	require.Equal(t, "MZ", string(efi[:2]))
	return boot, core
}

func TestTheBootSectorStartsCoreAndKeepsThePartitionTable(t *testing.T) {
	boot, core := loaderFiles(t)
	disk := &memoryDisk{data: bytes.Repeat([]byte{0xee}, 2<<20)}
	disk.data[510], disk.data[511] = 0x55, 0xaa
	table := bytes.Clone(disk.data[0x1b8:512])
	require.NoError(t, InstallBIOS(disk, boot, core, 2048, 2048))

	require.Equal(t, []int64{2048 * 512, 0}, disk.writes, "the boot sector comes last")
	require.Equal(t, table, disk.data[0x1b8:512])
	require.Equal(t, uint64(2048), binary.LittleEndian.Uint64(disk.data[0x5c:]))
	require.Equal(t, boot[:0x5c], disk.data[:0x5c])
	require.Equal(t, []byte{0xff, boot[0x65], 0x90, 0x90}, disk.data[0x64:0x68])
	at := disk.data[2048*512:]
	require.Equal(t, core[:0x1f4], at[:0x1f4])
	require.Equal(t, core[0x200:], at[0x200:len(core)])
	require.Equal(t, uint64(2049), binary.LittleEndian.Uint64(at[0x1f4:]))
	require.Equal(t, (len(core)+511)/512-1, int(binary.LittleEndian.Uint16(at[0x1fc:])))
	require.Equal(t, uint16(0x820), binary.LittleEndian.Uint16(at[0x1fe:]))
}

func TestWhatIsNotGRUBIsNotInstalled(t *testing.T) {
	boot, core := loaderFiles(t)
	for name, install := range map[string]func(*memoryDisk) error{
		"short boot.img": func(d *memoryDisk) error { return InstallBIOS(d, boot[:511], core, 2048, 2048) },
		"no boot.img":    func(d *memoryDisk) error { return InstallBIOS(d, make([]byte, 512), core, 2048, 2048) },
		"empty core.img": func(d *memoryDisk) error { return InstallBIOS(d, boot, nil, 2048, 2048) },
		"large core.img": func(d *memoryDisk) error { return InstallBIOS(d, boot, core, 2048, 100) },
	} {
		disk := &memoryDisk{data: make([]byte, 2<<20)}
		require.ErrorIs(t, install(disk), ErrBootImage, name)
		require.Empty(t, disk.writes, name)
	}
	broken := &memoryDisk{data: make([]byte, 2<<20), fail: 1}
	require.ErrorContains(t, InstallBIOS(broken, boot, core, 2048, 2048), "write core.img")
	require.Equal(t, make([]byte, 512), broken.data[:512], "no boot sector without a core")
}

func TestTheCoreHoldsEveryCommandOfTheScript(t *testing.T) {
	// What GRUB itself calls the modules of the commands that Config uses.
	for _, module := range []string{
		"serial", "terminal", "search", "search_label", "loadenv", "regexp", "test", "true", "loopback", "configfile", "hashsum", "gcry_sha256",
		"echo", "linux", "boot", "sleep", "reboot", "normal", "ext2", "part_gpt",
	} {
		require.Contains(t, Modules(), module)
	}
	require.Contains(t, string(EmbeddedConfig()), "COS_STATE")
}
