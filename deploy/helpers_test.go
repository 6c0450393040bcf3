package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/upgrade/image"
)

// fakeImage is an image of a few files.
type fakeImage struct {
	files    map[string]string
	unpacked func(ctx context.Context) error // called when the files are laid out; nil: nothing
}

var fakeID = image.Identity{ID: strings.Repeat("5e", 32), Version: `v1 "$x`, Platform: "linux/amd64"}

// built are the files of the fake image that take a build: its boot loaders and an initrd with muster-init.
var built map[string]string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "deploy-test-")
	if err == nil {
		// A place of its own, so that what is left is this process's.
		err = os.Setenv("TMPDIR", dir)
	}
	if err == nil {
		built, err = build(dir)
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func build(dir string) (map[string]string, error) {
	out, err := exec.Command("sh", "-ec", `CGO_ENABLED=0 go build -o "$1/init" ../cmd/muster-init
		../upgrade/grub/mkimage "$1"
		cd "$1" && echo init | cpio -o -H newc --quiet >initrd`, "sh", dir).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	files := map[string]string{}
	for name, path := range map[string]string{
		"init": "usr/bin/muster", "initrd": "boot/initrd", "boot.img": "usr/lib/muster/grub/boot.img", "core.img": "usr/lib/muster/grub/core.img",
		"BOOTX64.EFI": "usr/lib/muster/grub/BOOTX64.EFI",
	} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		files[path] = string(data)
	}
	return files, nil
}

func newFakeImage(t *testing.T) *fakeImage {
	t.Helper()
	f := &fakeImage{files: map[string]string{
		"boot/vmlinuz": "a kernel", "etc/os-release": "IMAGE_ID=fake\nIMAGE_VERSION=1\n", "sbin/init": "#!", "sbin/mkfs.ext4": "#!",
	}}
	maps.Copy(f.files, built)
	for _, dir := range []string{"oem", "usr/local", "proc", "sys", "dev", "run", "tmp", "var", "root", "home", "usr/lib/modules/1"} {
		f.files[dir+"/.keep"] = ""
	}
	return f
}

func (f *fakeImage) Identity() image.Identity   { return fakeID }
func (f *fakeImage) Pull(context.Context) error { return nil }
func (f *fakeImage) Bytes() (n int64) {
	for _, text := range f.files {
		n += int64(len(text))
	}
	return n
}

func (f *fakeImage) Unpack(ctx context.Context, dir string, _ func(image.Progress)) error {
	for name, text := range f.files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			return err
		}
	}
	if f.unpacked != nil {
		return f.unpacked(ctx)
	}
	return nil
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}

// nothingLeft fails when loop devices or mounts of the test are left.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	require.NotContains(t, tool(t, "losetup", "-a"), dir)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), filepath.Join(os.TempDir(), "muster-deploy-"))
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		require.False(t, strings.HasSuffix(path, ".partial"), path)
		return err
	}))
}

// carve copies a partition to a file of its own.
func carve(t *testing.T, disk string, p Partition) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), p.Name+".img")
	tool(t, "dd", "if="+disk, "of="+out, "bs=1M", "conv=sparse", "status=none",
		"skip="+strconv.FormatInt(p.Start/mib, 10), "count="+strconv.FormatInt(p.Size/mib, 10))
	return out
}
