package boot

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// newTree is an image's tree with a kernel of four modules.
func newTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "usr/lib/modules/6.1.0-test")
	for name, content := range map[string]string{
		"kernel/a/virtio.ko": "v", "kernel/a/virtio_ring.ko": "vr", "kernel/a/virtio_blk.ko": "vb", "kernel/crc32c-intel.ko": "crc", "kernel/fs/ext4.ko": "e",
		"modules.dep": "kernel/a/virtio.ko: kernel/a/virtio_ring.ko\nkernel/a/virtio_ring.ko:\n" +
			"kernel/a/virtio_blk.ko: kernel/a/virtio.ko kernel/a/virtio_ring.ko\nkernel/crc32c-intel.ko:\nkernel/fs/ext4.ko:\n",
		"modules.softdep": "# comment\nsoftdep ext4 pre: crc32c_intel post: x\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "muster-init"), []byte("\x7fELF program"), 0o755))
	return root
}

func writeInitrd(t *testing.T, root string, modules []string) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, WriteInitrd(&b, InitrdOptions{Init: filepath.Join(root, "muster-init"), Root: root, Modules: modules}))
	return b.Bytes()
}

func TestAnInitrdIsWhatCPIOReads(t *testing.T) {
	data := writeInitrd(t, newTree(t), []string{"virtio-blk", "ext4", "not_there"})
	r, err := zstd.NewReader(bytes.NewReader(data))
	require.NoError(t, err)
	defer r.Close()
	archive, err := io.ReadAll(r)
	require.NoError(t, err)
	dir := t.TempDir()
	cmd := exec.Command("cpio", "-id", "--quiet")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	list, err := os.ReadFile(dir + "/modules.list")
	require.NoError(t, err)
	require.Equal(t, []string{
		"/modules/virtio_ring.ko", "/modules/virtio.ko", "/modules/virtio_blk.ko", "/modules/crc32c-intel.ko", "/modules/ext4.ko",
	}, strings.Fields(string(list)))
	program, err := os.ReadFile(dir + "/init")
	require.NoError(t, err)
	require.Equal(t, "\x7fELF program", string(program))
	for _, m := range moved {
		require.DirExists(t, dir+m)
	}
	info, err := os.Stat(dir + "/dev/console")
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeCharDevice)
}

func TestTheSameTreeGivesTheSameInitrd(t *testing.T) {
	root := newTree(t)
	require.Equal(t, writeInitrd(t, root, nil), writeInitrd(t, root, nil))
}

func TestWhatCannotBootMakesNoInitrd(t *testing.T) {
	root := newTree(t)
	modules := filepath.Join(root, "usr/lib/modules")
	options := InitrdOptions{Init: filepath.Join(root, "muster-init"), Root: root}

	script := filepath.Join(root, "script")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755))
	require.ErrorContains(t, WriteInitrd(io.Discard, InitrdOptions{Init: script, Root: root}), "is no program")

	dep := filepath.Join(modules, "6.1.0-test/modules.dep")
	require.NoError(t, os.WriteFile(dep, []byte("kernel/fs/ext4.ko.xz:\n"), 0o644))
	require.ErrorContains(t, WriteInitrd(io.Discard, options), "is compressed")

	require.NoError(t, os.Mkdir(filepath.Join(modules, "6.1.0-other"), 0o755))
	require.ErrorIs(t, WriteInitrd(io.Discard, options), ErrNoKernel)
}
