package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	fake "github.com/google/go-containerregistry/pkg/registry"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/upgrade"
	"github.com/muster-edge/muster/upgrade/image"
)

// box is a machine with slots on files: what `muster upgrade` and its kin work on in these tests. v1 runs from active and is
// good, v0 is in passive.
type box struct {
	*upgrade.Machine
	restarts int
}

// small is an image that only has to be in a slot.
type small struct{ version string }

func idOf(version string) string {
	sum := sha256.Sum256([]byte(version))
	return hex.EncodeToString(sum[:])
}

func (s small) Identity() image.Identity {
	return image.Identity{ID: idOf(s.version), Version: s.version, Platform: image.DefaultPlatform()}
}
func (small) Pull(context.Context) error { return nil }
func (small) Bytes() int64               { return 1 << 10 }
func (s small) Unpack(_ context.Context, dir string, _ func(image.Progress)) error {
	for _, name := range []string{"boot/vmlinuz", "boot/initrd", "etc/os-release"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(s.version+name), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// newBox makes the machine and lets the commands of this test work on it. COS_STATE has room (MiB) for a new slot.
func newBox(t *testing.T, room int) *box {
	t.Helper()
	dir := t.TempDir()
	b := &box{Machine: thisMachine()}
	b.Root, b.OEM, b.Run, b.Model = filepath.Join(dir, "root"), filepath.Join(dir, "oem"), filepath.Join(dir, "run"), "ACME box"
	for _, made := range []string{b.Root, b.OEM, b.Run} {
		require.NoError(t, os.Mkdir(made, 0o755))
	}
	b.StateDevice = b.disk(t, filepath.Join(dir, "state"), 24+room, "v1", "v0")
	b.RecoveryDevice = b.disk(t, filepath.Join(dir, "recovery"), 24, "recovery")
	b.starts(t, "active", "v1")
	require.NoError(t, b.MarkGood(upgrade.Options{}))

	were, wasCache, wasRestart := thisMachine, upgradeCache, restart
	thisMachine, upgradeCache = func() *upgrade.Machine { return b.Machine }, filepath.Join(dir, "images")
	restart = func(context.Context) error { b.restarts++; return nil }
	t.Cleanup(func() { thisMachine, upgradeCache, restart = were, wasCache, wasRestart })
	return b
}

// disk makes a file system with slots, and returns its loop device.
func (b *box) disk(t *testing.T, file string, size int, versions ...string) string {
	t.Helper()
	tool(t, "mkfs.ext4", "-q", file, fmt.Sprintf("%dm", size))
	device := tool(t, "losetup", "--find", "--show", file)
	t.Cleanup(func() { tool(t, "losetup", "--detach", device) })
	at := t.TempDir()
	tool(t, "mount", device, at)
	names := []string{upgrade.Active, upgrade.Passive}
	if len(versions) == 1 {
		names = []string{upgrade.Recovery}
	}
	require.NoError(t, os.Mkdir(filepath.Join(at, upgrade.SlotDir), 0o755))
	for i, version := range versions {
		require.NoError(t, upgrade.WriteSlot(t.Context(), small{version}, filepath.Join(at, upgrade.SlotFile(names[i])), upgrade.SlotOptions{Size: 2 << 20}))
	}
	unmount(t, at)
	return device
}

// unmount waits for the kernel, which lets go of a loop device's file a moment after its own unmount.
func unmount(t *testing.T, at string) {
	t.Helper()
	require.Eventually(t, func() bool { return unix.Unmount(at, 0) == nil }, 10*time.Second, 10*time.Millisecond)
}

// starts is a start of the machine from a slot.
func (b *box) starts(t *testing.T, slot, version string) {
	t.Helper()
	describe := filepath.Join(b.Root, upgrade.ImageDir, "image.json")
	require.NoError(t, os.MkdirAll(filepath.Dir(describe), 0o755))
	require.NoError(t, os.WriteFile(describe, fmt.Appendf(nil, `{"id":%q}`, idOf(version)), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(b.Run, "boot.json"), fmt.Appendf(nil, `{"slot":%q,"image":%q}`, slot, idOf(version)), 0o644))
}

// holds is what the slots hold, every file of them read.
func (b *box) holds(t *testing.T) map[string]string {
	t.Helper()
	s, err := b.State(context.WithoutCancel(t.Context()), true)
	require.NoError(t, err)
	all := map[string]string{}
	for name, slot := range s.Slots {
		require.Empty(t, slot.Problem, name)
		all[name] = slot.Version
	}
	return all
}

var untouched = map[string]string{"active": "v1", "passive": "v0", "recovery": "recovery"}

func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return strings.TrimSpace(string(out))
}

// initProgram is a program that says of itself that it is muster-init.
var initProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "muster-init-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for name, text := range map[string]string{
		"go.mod": "module example.com/os\n\ngo 1.26\n", "cmd/muster-init/main.go": "package main\n\nfunc main() {}\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", "init", "./cmd/muster-init")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "init"))
})

// tree is a root tree that lacks nothing of the contract.
func tree(t *testing.T, version string) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"oem", "usr/local", "proc", "sys", "dev", "run", "tmp", "var", "etc", "root", "home", "usr/lib/modules/6.1.0-56"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	program, err := initProgram()
	require.NoError(t, err)
	kernel := make([]byte, 0x400)
	copy(kernel[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(kernel[0x20e:], 0x100)
	copy(kernel[0x300:], "6.1.0-56 (somebody@somewhere) #1\x00")
	for name, body := range map[string]string{
		"boot/vmlinuz": string(kernel), "boot/initrd": string(cpio(program)), "usr/lib/systemd/systemd": "x", "usr/bin/muster": string(program),
		"usr/lib/os-release": "IMAGE_ID=box\nIMAGE_VERSION=" + version + "\n", "usr/lib/muster/grub/boot.img": "x", "usr/lib/muster/grub/core.img": "x",
		"usr/lib/muster/grub/BOOTX64.EFI": "x", "usr/sbin/mkfs.ext4": "x",
	} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(body), 0o755))
	}
	return root
}

// cpio is an initrd whose /init is the program.
func cpio(program []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	at := 0
	put := func(data string) {
		n, _ := io.WriteString(z, data) // into memory
		at += n
	}
	for _, f := range []struct {
		name string
		body []byte
	}{{"init", program}, {"TRAILER!!!", nil}} {
		put(fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, 0o100755, 0, 0, 1, 0, len(f.body), 0, 0, 0, 0, len(f.name)+1, 0))
		put(f.name + "\x00")
		put(strings.Repeat("\x00", -at&3))
		put(string(f.body))
		put(strings.Repeat("\x00", -at&3))
	}
	_ = z.Close() // into memory
	return b.Bytes()
}

// packed is an OCI layout of a complete image.
func packed(t *testing.T, version string) (layout, digest string) {
	t.Helper()
	layout = t.TempDir()
	digest, err := image.Pack(t.Context(), image.PackOptions{Root: tree(t, version), Out: layout, Platform: image.DefaultPlatform()})
	require.NoError(t, err)
	return layout, digest
}

// registry serves what is pushed into it; wrap may break it.
func registry(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	var h http.Handler = fake.New(fake.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// push uploads the image of a layout as os:v.
func push(t *testing.T, layout, host string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(layout, "index.json"))
	require.NoError(t, err)
	var index struct {
		Manifests []struct{ Digest, MediaType string }
	}
	require.NoError(t, json.Unmarshal(raw, &index))
	blobs, err := filepath.Glob(filepath.Join(layout, "blobs/sha256/*"))
	require.NoError(t, err)
	send := func(method, url, kind string, data []byte) {
		req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(data))
		require.NoError(t, err)
		req.Header.Set("Content-Type", kind)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Less(t, resp.StatusCode, 300, url)
	}
	for _, name := range blobs {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		send(http.MethodPost, "http://"+host+"/v2/os/blobs/uploads/?digest=sha256:"+filepath.Base(name), "application/octet-stream", data)
	}
	manifest, err := os.ReadFile(filepath.Join(layout, "blobs/sha256", strings.TrimPrefix(index.Manifests[0].Digest, "sha256:")))
	require.NoError(t, err)
	send(http.MethodPut, "http://"+host+"/v2/os/manifests/v", index.Manifests[0].MediaType, manifest)
	return "oci:" + host + "/os:v"
}

// layer is the file of the largest blob of a layout: its layer.
func layer(t *testing.T, layout string) (file string, size int64) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(layout, "blobs/sha256/*"))
	require.NoError(t, err)
	for _, name := range blobs {
		info, err := os.Stat(name)
		require.NoError(t, err)
		if info.Size() > size {
			file, size = name, info.Size()
		}
	}
	return file, size
}

// escaping is a tar whose entry reaches out of the tree.
func escaping(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.tar")
	f, err := os.Create(path)
	require.NoError(t, err)
	w := tar.NewWriter(f)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "etc/../../evil", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1, Format: tar.FormatPAX}))
	_, err = w.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, f.Close())
	return path
}

func otherPlatform() string {
	if runtime.GOARCH == "arm64" {
		return "linux/amd64"
	}
	return "linux/arm64"
}
