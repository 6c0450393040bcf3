package deploy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/muster-edge/muster/upgrade"
	"github.com/muster-edge/muster/upgrade/grub"
)

func TestADiskHoldsWhatTheContractSays(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "disk.raw")
	var steps []string
	r, err := makeDisk(t.Context(), DiskOptions{Out: out, Firmware: FirmwareBoth, Config: []byte("#cloud-config\n"), Extra: "quiet"},
		newFakeImage(t), func(s string) { steps = append(steps, s) })
	require.NoError(t, err)
	nothingLeft(t, dir)
	require.Equal(t, []string{"forgotten", "oem", "slots", "persistent", "esp", "table", "boot sector"}, steps)
	info, err := os.Stat(out)
	require.NoError(t, err)
	require.Equal(t, r.Size, info.Size())
	require.Less(t, info.Sys().(*syscall.Stat_t).Blocks*512, r.Size/2, "what is empty takes no room")

	require.Contains(t, tool(t, "sgdisk", "-v", out), "No problems found")
	listed := tool(t, "sgdisk", "-p", out)
	for i, p := range r.Partitions {
		require.Regexp(t, fmt.Sprintf(`(?m)^ +%d +%d +%d .* %s$`, i+1, p.Start/512, (p.Start+p.Size)/512-1, p.Name), listed)
	}
	for _, i := range []int{partOEM, partRecovery, partState, partPersistent} {
		part := carve(t, out, r.Partitions[i])
		tool(t, "e2fsck", "-fn", part)
		require.Equal(t, r.Partitions[i].Label+"\n", tool(t, "e2label", part))
	}
	oem := carve(t, out, r.Partitions[partOEM])
	require.Equal(t, "#cloud-config\n", tool(t, "grub-fstest", oem, "cat", "/90_custom.yaml"))
	require.Contains(t, tool(t, "debugfs", "-R", "stat /90_custom.yaml", oem), "Mode:  0600")
	env, err := grub.DecodeEnv([]byte(tool(t, "grub-fstest", oem, "cat", "/grubenv")))
	require.NoError(t, err)
	require.Equal(t, grub.Env{MaxTries: grub.DefaultMaxTries, ExtraCmdline: "quiet"}, env)

	state := carve(t, out, r.Partitions[partState])
	require.Equal(t, string(grub.Config(grub.Options{Timeout: menuTimeout})), tool(t, "grub-fstest", state, "cat", "/grub2/grub.cfg"))
	recovery := carve(t, out, r.Partitions[partRecovery])
	for part, slots := range map[string][]string{state: {"active", "passive"}, recovery: {"recovery"}} {
		for _, slot := range slots {
			slotFile := filepath.Join(dir, slot)
			tool(t, "debugfs", "-R", "dump /cOS/"+slot+".img "+slotFile, part)
			tool(t, "e2fsck", "-fn", slotFile)
			require.Equal(t, "a kernel", tool(t, "grub-fstest", slotFile, "cat", "/boot/vmlinuz"))
			require.Equal(t, "set image_id="+fakeID.ID+"\nset image_version=\"v1 __x\"\n", tool(t, "grub-fstest", slotFile, "cat", "/usr/lib/muster/image/grub.cfg"))
		}
	}

	esp := carve(t, out, r.Partitions[partEFI])
	require.Contains(t, tool(t, "mdir", "-i", esp, "::/EFI/BOOT"), "BOOTX64  EFI")
	boot := tool(t, "mtype", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI")
	require.Equal(t, "MZ", boot[:2])
	label := make([]byte, 8)
	f, err := os.Open(esp)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.ReadAt(label, 82)
	require.NoError(t, err)
	require.Equal(t, "FAT32   ", string(label))
}

func TestAnInterruptLeavesNothing(t *testing.T) {
	for _, at := range []string{"forgotten", "oem", "unpack", "slots", "esp", "table"} {
		dir := t.TempDir()
		out := filepath.Join(dir, "disk.raw")
		require.NoError(t, os.WriteFile(out, []byte("the one before"), 0o644))
		ctx, interrupt := context.WithCancel(t.Context())
		img := newFakeImage(t)
		if at == "unpack" {
			img.unpacked = func(ctx context.Context) error { interrupt(); return ctx.Err() }
		}
		_, err := makeDisk(ctx, DiskOptions{Out: out, Firmware: FirmwareBoth}, img, func(s string) {
			if s == at {
				interrupt()
			}
		})
		require.ErrorIs(t, err, context.Canceled, at)
		nothingLeft(t, dir)
		data, err := os.ReadFile(out)
		require.NoError(t, err)
		require.Equal(t, "the one before", string(data), at)
	}
}

func TestAFullFileSystemLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=12m"))
	defer func() { require.NoError(t, unix.Unmount(dir, 0)) }()
	_, err := makeDisk(t.Context(), DiskOptions{Out: filepath.Join(dir, "disk.raw"), Firmware: FirmwareBoth}, newFakeImage(t), nil)
	require.Error(t, err)
	nothingLeft(t, dir)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestWhatCannotBeMadeIsRefusedWithNumbers(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "disk.raw")
	img := newFakeImage(t)
	_, err := makeDisk(t.Context(), DiskOptions{Out: out, Firmware: FirmwareBoth, Size: 100 * mib}, img, nil)
	require.ErrorIs(t, err, ErrTooSmall)
	require.Contains(t, err.Error(), "100 MiB")

	delete(img.files, "usr/lib/muster/grub/BOOTX64.EFI")
	_, err = makeDisk(t.Context(), DiskOptions{Out: out, Firmware: FirmwareUEFI}, img, nil)
	require.ErrorContains(t, err, "BOOTX64.EFI")
	require.ErrorIs(t, err, upgrade.ErrContract)
	nothingLeft(t, dir)
	_, err = Disk(t.Context(), DiskOptions{Image: "dir:/", Firmware: "coreboot", Out: out})
	require.ErrorIs(t, err, ErrFirmware)
	_, err = os.Stat(out)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestPartitionsFollowEachOtherAndEndOnTheDisk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.Int64Range(1, 20<<30).Draw(t, "image")
		size := smallestDisk(bytes) + rapid.Int64Range(0, 1<<40).Draw(t, "more")
		parts, err := layOut(size, bytes)
		require.NoError(t, err)
		end := int64(mib)
		for _, p := range parts {
			require.Equal(t, end, p.Start)
			require.Positive(t, p.Size)
			end += p.Size
		}
		require.LessOrEqual(t, end, size-34*sectorSize)
		_, err = layOut(smallestDisk(bytes)-1, bytes)
		require.ErrorIs(t, err, ErrTooSmall)
		require.True(t, strings.Contains(err.Error(), "MiB"))
	})
}
