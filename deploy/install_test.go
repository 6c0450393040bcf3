package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func yes(Plan) (bool, error) { return true, nil }

// blockDevice returns a device on a sparse file.
func blockDevice(t *testing.T, backing string, size int64) string {
	t.Helper()
	if size > 0 {
		require.NoError(t, sparseFile(backing, size))
	}
	device := strings.TrimSpace(tool(t, "losetup", "-f", "--show", backing))
	t.Cleanup(func() { tool(t, "losetup", "-d", device) })
	return device
}

func TestACutInstallationBootsNothingAndCanBeRepeated(t *testing.T) {
	img, dir := newFakeImage(t), t.TempDir()
	backing := filepath.Join(dir, "disk")
	device := blockDevice(t, backing, smallestDisk(img.Bytes())+100*mib)
	o := InstallOptions{Device: device, Firmware: FirmwareBoth, Confirm: yes}
	_, err := install(t.Context(), o, img)
	require.NoError(t, err)

	// The second one goes over the first: nothing of the old system may start while the new one is not whole.
	cuts := map[string]string{}
	o.Step = func(name string) {
		// The file behind the loop device has what was synced, not what is in the device's cache.
		cuts[name] = filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		tool(t, "cp", "--sparse=always", backing, cuts[name])
	}
	_, err = install(t.Context(), o, img)
	require.NoError(t, err)
	require.Len(t, cuts, 7)
	for name, path := range cuts {
		f, err := os.Open(path)
		require.NoError(t, err)
		first, last := make([]byte, 4*sectorSize), make([]byte, sectorSize)
		_, err = f.ReadAt(first, 0)
		require.NoError(t, err)
		_, err = f.ReadAt(last, smallestDisk(img.Bytes())+100*mib-sectorSize)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		complete := name == "table" || name == "boot sector"
		require.Equal(t, complete, string(first[512:520]) == "EFI PART", name)
		require.Equal(t, complete, string(last[:8]) == "EFI PART", name)
		require.Equal(t, name == "boot sector", first[0] != 0, name)
		if complete {
			parts, err := layOut(smallestDisk(img.Bytes())+100*mib, img.Bytes())
			require.NoError(t, err)
			tool(t, "e2fsck", "-fn", carve(t, path, parts[partState]))
			tool(t, "e2fsck", "-fn", carve(t, path, parts[partPersistent]))
			require.Contains(t, tool(t, "mdir", "-i", carve(t, path, parts[partEFI]), "::/EFI/BOOT"), "BOOTX64  EFI")
		}
		if name == "slots" || name == "table" {
			_, err = install(t.Context(), InstallOptions{Device: blockDevice(t, path, 0), Firmware: FirmwareBoth, Confirm: yes}, img)
			require.NoError(t, err, "again after a cut at %s", name)
			require.Contains(t, tool(t, "sgdisk", "-v", path), "No problems found")
		}
	}
}

func TestADiskInUseIsRefusedAndNotTouched(t *testing.T) {
	img, dir := newFakeImage(t), t.TempDir()
	backing := filepath.Join(dir, "disk")
	device := blockDevice(t, backing, smallestDisk(img.Bytes()))
	tool(t, "mkfs.ext4", "-q", "-F", device)
	o := InstallOptions{Device: device, Firmware: FirmwareBoth, Confirm: yes}
	refused := func(text string) {
		t.Helper()
		_, err := install(t.Context(), o, img)
		require.ErrorIs(t, err, ErrInUse)
		require.ErrorContains(t, err, text)
		tool(t, "e2fsck", "-n", device)
	}
	mounted := t.TempDir()
	require.NoError(t, unix.Mount(device, mounted, "ext4", unix.MS_RDONLY, ""))
	refused("is mounted on " + mounted)
	require.NoError(t, unix.Unmount(mounted, 0))

	upper := strings.TrimSpace(tool(t, "losetup", "-f", "--show", "-o", "1048576", device))
	refused("is behind " + filepath.Base(upper))
	tool(t, "losetup", "-d", upper)

	// What the tables of the system do not show, the kernel still knows.
	claim, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
	require.NoError(t, err)
	refused("the kernel says so")
	require.NoError(t, claim.Close())
}

func TestWhatIsNoDiskOrNotConfirmedIsNotTouched(t *testing.T) {
	img, dir := newFakeImage(t), t.TempDir()
	regular := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(regular, []byte("mine"), 0o644))
	for _, path := range []string{regular, "/dev/null", filepath.Join(dir, "none"), dir} {
		_, err := install(t.Context(), InstallOptions{Device: path, Firmware: FirmwareBoth, Confirm: yes}, img)
		require.ErrorIs(t, err, ErrNotADisk, path)
	}
	small := blockDevice(t, filepath.Join(dir, "small"), 100*mib)
	_, err := install(t.Context(), InstallOptions{Device: small, Firmware: FirmwareBoth, Confirm: yes}, img)
	require.ErrorIs(t, err, ErrTooSmall)
	require.ErrorContains(t, err, "100 MiB")

	backing := filepath.Join(dir, "disk")
	device := blockDevice(t, backing, smallestDisk(img.Bytes()))
	tool(t, "sgdisk", "-n1:2048:+1M", "-c1:precious", device)
	var shown Plan
	_, err = install(t.Context(), InstallOptions{Device: device, Firmware: FirmwareBoth, Confirm: func(p Plan) (bool, error) {
		shown = p
		return false, nil
	}}, img)
	require.ErrorIs(t, err, ErrDeclined)
	require.Equal(t, []string{`partition "precious", 1 MiB`}, shown.Device.Holds)
	require.Equal(t, fakeID, shown.Identity)
	require.Len(t, shown.Partitions, 6)
	require.Contains(t, tool(t, "sgdisk", "-p", device), "precious")
}
