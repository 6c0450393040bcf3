package boot

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// newDisk is a disk with a partition of 4 MiB and then one of 20 MiB, as the last one, that was copied to a larger disk of size bytes.
func newDisk(t *testing.T, size int64) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(name, nil, 0o600))
	require.NoError(t, os.Truncate(name, 32*mib))
	command(t, "sgdisk", "-a", "2048", "-n", "1:2048:+4M", "-n", "6:0:+20M", "-c", "6:persistent", name)
	require.NoError(t, os.Truncate(name, size))
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return strings.TrimSpace(string(out))
}

func TestTheLastPartitionGrowsToTheDisk(t *testing.T) {
	f := newDisk(t, 100*mib)
	g, err := planGrowth(f, 100*mib, 512, 6)
	require.NoError(t, err)
	require.True(t, g.grown)
	require.NoError(t, g.write(f))
	require.Contains(t, command(t, "sgdisk", "-v", f.Name()), "No problems found")
	require.Contains(t, command(t, "sgdisk", "-i", "6", f.Name()), "Partition name: 'persistent'")
	require.Contains(t, command(t, "sgdisk", "-i", "6", f.Name()), fmt.Sprintf("Partition size: %d sectors", g.size/512))
	require.EqualValues(t, 5*mib, g.start)
	require.EqualValues(t, 94*mib, g.size, "aligned to a MiB, before the backup of the table")

	again, err := planGrowth(f, 100*mib, 512, 6)
	require.NoError(t, err)
	require.False(t, again.grown, "done twice it does nothing")
	require.Equal(t, g.size, again.size)
}

func TestAPartitionThatIsNotTheLastStays(t *testing.T) {
	f := newDisk(t, 100*mib)
	g, err := planGrowth(f, 100*mib, 512, 1)
	require.NoError(t, err)
	require.False(t, g.grown)
	require.EqualValues(t, 4*mib, g.size)
}

func TestAPowerCutWhileGrowingLeavesATable(t *testing.T) {
	f := newDisk(t, 100*mib)
	g, err := planGrowth(f, 100*mib, 512, 6)
	require.NoError(t, err)
	_, err = f.WriteAt(g.backup, g.backupAt) // the power goes here
	require.NoError(t, err)
	again, err := planGrowth(f, 100*mib, 512, 6)
	require.NoError(t, err)
	require.Equal(t, g, again, "the next boot goes on as if nothing had happened")
	require.NoError(t, again.write(f))
	require.Contains(t, command(t, "sgdisk", "-v", f.Name()), "No problems found")
}

func TestADamagedTableIsLeftAlone(t *testing.T) {
	for name, at := range map[string]int64{"signature": 512, "header": 512 + 48, "entries": 1024 + 32} {
		t.Run(name, func(t *testing.T) {
			f := newDisk(t, 100*mib)
			b := make([]byte, 1)
			_, err := f.ReadAt(b, at)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte{b[0] ^ 1}, at)
			require.NoError(t, err)
			_, err = planGrowth(f, 100*mib, 512, 6)
			require.ErrorIs(t, err, errGPT)
		})
	}
	for _, n := range []int{0, 2, 129} {
		_, err := planGrowth(newDisk(t, 100*mib), 100*mib, 512, n)
		require.ErrorIs(t, err, errGPT, "partition %d", n)
	}
}

func FuzzPlanGrowth(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0}, 2048), uint64(mib), 1)
	header := make([]byte, 2048)
	copy(header[512:], gptSignature)
	header[512+12] = gptHeaderSize
	header[512+gptCount], header[512+gptEntrySize] = 8, 128
	finishHeader(header[512:1024], header[1024:2048], 1, 2047, 2, 2000)
	f.Add(header, uint64(mib), 1)
	f.Fuzz(func(t *testing.T, data []byte, size uint64, n int) {
		if g, err := planGrowth(bytes.NewReader(data), size, 512, n); err == nil && g.grown {
			require.LessOrEqual(t, g.start+g.size, size)
			require.LessOrEqual(t, uint64(g.backupAt)+uint64(len(g.backup)), size)
			require.GreaterOrEqual(t, uint64(g.backupAt), g.start+g.size)
		}
	})
}

// This kernel reads no partition table; partx tells it of the partitions, as the kernel of an image would know them.
func TestAFileSystemGrowsWithItsPartition(t *testing.T) {
	f := newDisk(t, 32*mib)
	command(t, "mkfs.ext4", "-q", "-L", labelPersistent, "-E", fmt.Sprintf("offset=%d", 5*mib), f.Name(), "20M")
	require.NoError(t, f.Truncate(300*mib))
	loop := command(t, "losetup", "-f", "--show", f.Name())
	t.Cleanup(func() { command(t, "losetup", "-d", loop) })
	command(t, "partx", "-a", loop)
	t.Cleanup(func() { command(t, "partx", "-d", loop) })
	device := loop + "p6"
	require.Equal(t, labelPersistent, readDevice(device).label)
	require.Equal(t, filepath.Base(loop), (&machine{}).disk(device))

	var m machine
	require.NoError(t, m.grow(device))
	require.Contains(t, command(t, "sgdisk", "-v", loop), "No problems found")
	sectors, err := sysNumber(filepath.Base(device), "size")
	require.NoError(t, err)
	require.EqualValues(t, 294*mib/512, sectors)

	target := t.TempDir()
	require.NoError(t, mount(device, target, "ext4", "rw,noatime"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(target, 0)) })
	if err := m.resize(device, target); err != nil {
		// Containers without CAP_SYS_RESOURCE may not; what the machine's own boot does is for the tests in a VM.
		require.ErrorIs(t, err, unix.EPERM)
	}
	require.NoError(t, m.grow(device), "the second boot has nothing to do")
}
