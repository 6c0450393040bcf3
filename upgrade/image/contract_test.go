package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// program is a real Go program whose build information carries the path of muster-init.
func program(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "cmd/muster-init"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.com/os\n\ngo 1.26\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cmd/muster-init/main.go"), []byte("package main\n\nfunc main() {}\n"), 0o600))
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", "init", "./cmd/muster-init")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64", "GOFLAGS=", "GOWORK=off")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	data, err := os.ReadFile(filepath.Join(dir, "init"))
	require.NoError(t, err)
	return data
}

func cpio(files ...file) []byte {
	var b bytes.Buffer
	for _, f := range append(files, file{name: cpioTrailer}) {
		fmt.Fprintf(&b, "%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", cpioMagic,
			0, 0o100755, 0, 0, 1, 0, len(f.body), 0, 0, 0, 0, len(f.name)+1, 0)
		b.WriteString(f.name + "\x00")
		b.Write(make([]byte, pad(int64(b.Len()))))
		b.WriteString(f.body)
		b.Write(make([]byte, pad(int64(b.Len()))))
	}
	return b.Bytes()
}

// kernel is the start of an x86 kernel that says its version.
func kernel(version string) []byte {
	b := make([]byte, 0x400)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x20e:], 0x100)
	copy(b[0x300:], version+" (somebody@somewhere) #1\x00")
	return b
}

func elfHeader(machine byte) []byte {
	h := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 57)...)
	h[18] = machine
	return h
}

const (
	amd64 = 62
	arm64 = 183
)

// complete is a tree that lacks nothing.
func complete(t testing.TB, program []byte) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range append(contractDirs, "usr/lib/modules/6.1.0-56") {
		require.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	z, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	initrd := append(cpio(file{name: "kernel/microcode", body: "x"}), make([]byte, 512)...)
	initrd = z.EncodeAll(cpio(file{name: "lib/x.ko", body: "module"}, file{name: "init", body: string(program)}), initrd)
	for name, body := range map[string]string{
		"boot/vmlinuz": string(kernel("6.1.0-56")), "boot/initrd": string(initrd), "usr/lib/systemd/systemd": "x",
		"usr/bin/muster": string(elfHeader(amd64)), "usr/lib/os-release": "IMAGE_ID=box\nIMAGE_VERSION='v7'\n",
		"usr/lib/muster/grub/boot.img": "x", "usr/lib/muster/grub/core.img": "x", "usr/lib/muster/grub/BOOTX64.EFI": "x", "usr/sbin/mkfs.ext4": "x",
	} {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(body), 0o755))
	}
	// as distributions have them: absolute, and good only inside of the tree
	require.NoError(t, os.Symlink("/usr/lib/os-release", filepath.Join(root, "etc/os-release")))
	require.NoError(t, os.Symlink("/usr/sbin", filepath.Join(root, "sbin")))
	return root
}

func TestEverythingThatAnImageLacksIsNamed(t *testing.T) {
	program := program(t)
	require.Empty(t, Check(complete(t, program), "linux/amd64"))
	write := func(name string, data []byte) func(*testing.T, string) {
		return func(t *testing.T, root string) {
			path := filepath.Join(root, name)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.RemoveAll(path))
			require.NoError(t, os.WriteFile(path, data, 0o755))
		}
	}
	gone := func(name string) func(*testing.T, string) {
		return func(t *testing.T, root string) { require.NoError(t, os.RemoveAll(filepath.Join(root, name))) }
	}
	for name, c := range map[string]struct {
		spoil func(*testing.T, string)
		want  Missing
	}{
		"kernel": {gone("boot/vmlinuz"), Missing{"/boot/vmlinuz", "is missing"}},
		"kernel as a link": {func(t *testing.T, root string) {
			require.NoError(t, os.Rename(root+"/boot/vmlinuz", root+"/boot/k"))
			require.NoError(t, os.Symlink("k", root+"/boot/vmlinuz"))
		}, Missing{"/boot/vmlinuz", "is a link, it must be the file itself"}},
		"empty kernel":     {write("boot/vmlinuz", nil), Missing{"/boot/vmlinuz", "is empty"}},
		"another kernel":   {write("boot/vmlinuz", kernel("6.9.9")), Missing{"/usr/lib/modules/6.9.9", "is missing"}},
		"modules":          {gone("usr/lib/modules"), Missing{"/usr/lib/modules/6.1.0-56", "is missing"}},
		"initrd":           {gone("boot/initrd"), Missing{"/boot/initrd", "is missing"}},
		"no archive":       {write("boot/initrd", []byte("hello")), Missing{"/boot/initrd", "is not a cpio archive"}},
		"no /init":         {write("boot/initrd", cpio(file{name: "x"})), Missing{"/boot/initrd", "holds no /init"}},
		"script as /init":  {write("boot/initrd", cpio(file{name: "init", body: "#!/bin/sh"})), Missing{"/boot/initrd", "its /init is not an ELF program"}},
		"another /init":    {write("boot/initrd", cpio(file{name: "./init", body: string(elfHeader(amd64))})), Missing{"/boot/initrd", "its /init is not muster-init"}},
		"cut initrd":       {write("boot/initrd", cpio(file{name: "init", body: "12345"})[:113]), Missing{"/boot/initrd", "is a cpio archive that ends too early"}},
		"PID 1":            {gone("usr/lib/systemd"), Missing{"/usr/lib/systemd/systemd", "is missing (a PID 1); or /sbin/init"}},
		"muster":           {gone("usr/bin/muster"), Missing{"/usr/bin/muster", "is missing"}},
		"muster as script": {write("usr/bin/muster", bytes.Repeat([]byte("#!/bin/sh\n"), 10)), Missing{"/usr/bin/muster", "is not an ELF program"}},
		"foreign muster":   {write("usr/bin/muster", elfHeader(arm64)), Missing{"/usr/bin/muster", "is for linux/arm64, wanted is linux/amd64"}},
		"muster unmarked":  {func(t *testing.T, root string) { require.NoError(t, os.Chmod(root+"/usr/bin/muster", 0o644)) }, Missing{"/usr/bin/muster", "is not executable"}},
		"os-release":       {gone("usr/lib/os-release"), Missing{"/etc/os-release", "is missing (IMAGE_ID and IMAGE_VERSION); or /usr/lib/os-release"}},
		"no version":       {write("usr/lib/os-release", []byte("IMAGE_ID=box\n")), Missing{"/etc/os-release", "IMAGE_VERSION is not set"}},
		"boot loader":      {gone("usr/lib/muster/grub/BOOTX64.EFI"), Missing{"/usr/lib/muster/grub/BOOTX64.EFI", "is missing"}},
		"directory":        {gone("oem"), Missing{"/oem", "is missing"}},
		"directory a file": {write("home", []byte("x")), Missing{"/home", "is not a directory"}},
		"mkfs":             {gone("usr/sbin/mkfs.ext4"), Missing{"/sbin/mkfs.ext4", "is missing (it makes file systems); or /usr/sbin/mkfs.ext4"}},
		"a slot's files":   {write("usr/lib/muster/image/image.json", nil), Missing{"/usr/lib/muster/image", "must not exist: it is written when a slot is made"}},
		"muster in local":  {write("usr/local/bin/muster", nil), Missing{"/usr/local/bin/muster", "must not exist: /usr/local is mounted over"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := complete(t, program)
			c.spoil(t, root)
			require.Equal(t, []Missing{c.want}, Check(root, "linux/amd64"))
		})
	}
	require.Greater(t, len(Check(t.TempDir(), DefaultPlatform())), 15)
	require.Equal(t, "/", Check("/nowhere", "linux/"+runtime.GOARCH)[0].Path)
}

func FuzzInitrd(f *testing.F) {
	f.Add(cpio(file{name: "init", body: "x"}))
	f.Add(zipped(f, cpio(file{name: "a"}, file{name: "init", body: "x"})))
	f.Fuzz(func(t *testing.T, data []byte) {
		program, err := findInit(bytes.NewReader(data))
		require.True(t, err != nil || len(program) <= maxProgram)
	})
}
