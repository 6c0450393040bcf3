package upgrade

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/upgrade/grub"
	"github.com/muster-edge/muster/upgrade/image"
)

// fakeImage is an image of a few small files, another for each version.
type fakeImage struct {
	version string
	chunk   func() error // before each file; may be nil
}

func idOf(version string) string {
	sum := sha256.Sum256([]byte(version))
	return hex.EncodeToString(sum[:])
}

func (f *fakeImage) Identity() image.Identity {
	return image.Identity{ID: idOf(f.version), Version: f.version, Platform: "linux/amd64"}
}
func (f *fakeImage) Pull(ctx context.Context) error { return ctx.Err() }
func (f *fakeImage) Bytes() int64                   { return 64 << 10 }
func (f *fakeImage) Unpack(ctx context.Context, dir string, progress func(image.Progress)) error {
	for i, name := range []string{
		"boot/vmlinuz", "boot/initrd", "etc/os-release", "usr/bin/muster", "usr/lib/a", "usr/lib/b", "usr/lib/c", "usr/lib/d", "usr/lib/e", "usr/lib/f",
	} {
		if f.chunk != nil {
			if err := f.chunk(); err != nil {
				return err
			}
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(strings.Repeat(f.version+name, 500)), 0o755); err != nil {
			return err
		}
		progress(image.Progress{Step: "unpack", Done: int64(i+1) * 6 << 10, Total: f.Bytes()})
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

const testSlotSize = mib

// testDisk is a machine on four files with file systems, as after a power cut or a shutdown.
type testDisk struct{ dir string }

// None so small that mkfs would leave the journal out.
var partitions = map[string]string{"oem": "3m", "state": "6m", "recovery": "5m", "persistent": "3m"}

func (d testDisk) file(partition string) string { return filepath.Join(d.dir, partition+".disk") }

// tempDir is in memory: thousands of copies are made.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "muster-upgrade-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// newDisk returns a machine whose active is `active`, passive `passive` and recovery "recovery"; both are good.
func newDisk(t testing.TB, active, passive string) testDisk {
	t.Helper()
	d := testDisk{tempDir(t)}
	for partition, size := range partitions {
		tool(t, "mkfs.ext4", "-q", "-L", "COS_"+strings.ToUpper(partition), "-b", "1024", d.file(partition), size)
	}
	fill := func(partition string, do func(dir string)) {
		at := tempDir(t)
		tool(t, "mount", "-o", "loop", d.file(partition), at)
		do(at)
		writeBack(t, at)
		tool(t, "umount", at)
	}
	fill("oem", func(dir string) {
		env := grub.Env{Good: []string{idOf(active), idOf(passive)}}
		require.NoError(t, grub.CreateEnv(filepath.Join(dir, "grubenv"), env))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "90_site.yaml"), []byte("#cloud-config\n"), 0o600))
	})
	slot := func(dir, slot, version string) {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, SlotDir), 0o755))
		require.NoError(t, WriteSlot(t.Context(), &fakeImage{version: version}, filepath.Join(dir, SlotFile(slot)), SlotOptions{Size: testSlotSize}))
	}
	fill("state", func(dir string) { slot(dir, Active, active); slot(dir, Passive, passive) })
	fill("recovery", func(dir string) { slot(dir, Recovery, "recovery") })
	fill("persistent", func(dir string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "data"), []byte("mine"), 0o600))
	})
	return d
}

// snapshot is what is on a disk at one time, as a power cut would leave it: what is only in memory is not there.
type snapshot struct {
	data map[string][]byte // by partition
	sum  [4]uint64         // the same for the same data, within this process
}

func (d testDisk) snapshot(t testing.TB) (s snapshot) {
	t.Helper()
	s.data = map[string][]byte{}
	// Of one moment: what the kernel writes into meanwhile is read again. Two that are the same are.
	for tries := 0; ; tries++ {
		before := s.sum
		for i, partition := range []string{"oem", "state", "recovery", "persistent"} {
			data, err := os.ReadFile(d.file(partition))
			require.NoError(t, err)
			s.data[partition], s.sum[i] = data, maphash.Bytes(sumSeed, data)
		}
		if tries > 0 && s.sum == before {
			return s
		}
	}
}

var sumSeed = maphash.MakeSeed()

func (s snapshot) write(t testing.TB, dir string) testDisk {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	c := testDisk{dir}
	for partition, data := range s.data {
		require.NoError(t, os.WriteFile(c.file(partition), data, 0o600))
	}
	return c
}

func (d testDisk) copyTo(t testing.TB, dir string) testDisk {
	t.Helper()
	return d.snapshot(t).write(t, dir)
}

// started is a machine that runs: /oem mounted, boot.json written.
type started struct {
	*Machine
	off func()
}

// start starts the machine from a slot, as muster-init does.
func (d testDisk) start(t testing.TB, boot Boot) started {
	t.Helper()
	dir, err := os.MkdirTemp(d.dir, "run-")
	require.NoError(t, err)
	m := &Machine{OEM: filepath.Join(dir, "oem"), Run: filepath.Join(dir, "run"), Root: filepath.Join(dir, "root"), Model: "model"}
	m.slotSize = func(int64) int64 { return testSlotSize }
	for _, made := range []string{m.OEM, m.Run, m.Root} {
		require.NoError(t, os.Mkdir(made, 0o755))
	}
	loops := map[string]*os.File{}
	for partition := range partitions {
		f, err := os.OpenFile(d.file(partition), os.O_RDWR, 0)
		require.NoError(t, err)
		loops[partition], err = attach(f, os.O_RDWR, 0)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	m.StateDevice, m.RecoveryDevice, m.PersistentDevice = loops["state"].Name(), loops["recovery"].Name(), loops["persistent"].Name()
	require.NoError(t, unix.Mount(loops["oem"].Name(), m.OEM, "ext4", 0, ""))
	data, err := json.Marshal(boot)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(m.Run, "boot.json"), data, 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(m.Root, ImageDir), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(m.Root, ImageDir, fileImage), fmt.Appendf(nil, `{"id":%q}`, boot.Image), 0o600))
	return started{m, func() {
		writeBack(t, m.OEM)
		require.NoError(t, unmount(m.OEM))
		for _, loop := range loops {
			_ = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0) // autoclear does it otherwise
			require.NoError(t, loop.Close())
		}
		require.NoError(t, os.RemoveAll(dir))
	}}
}

// asGRUB reads the file systems without their journals, decides as GRUB does and writes what GRUB would write.
func (d testDisk) asGRUB(t testing.TB) grub.Decision {
	t.Helper()
	views := map[string]grub.SlotView{}
	at := tempDirIn(t, d.dir)
	look := func(partition string, slots ...string) {
		mountLoop(t, d.file(partition), at, unix.MS_RDONLY, "noload", func() {
			for _, slot := range slots {
				views[slot] = view(filepath.Join(at, SlotFile(slot)))
			}
		})
	}
	look("state", Active, Passive)
	look("recovery", Recovery)
	var env *grub.Env
	mountLoop(t, d.file("oem"), at, unix.MS_RDONLY, "noload", func() {
		if e, err := grub.ReadEnv(filepath.Join(at, "grubenv")); err == nil {
			env = &e
		}
	})
	decision := grub.Choose(env, views)
	if env != nil && decision.Env != nil {
		mountLoop(t, d.file("oem"), at, 0, "", func() { require.NoError(t, decision.Env.Write(filepath.Join(at, "grubenv"))) })
	}
	return decision
}

// view is what GRUB sees of a slot file.
func view(file string) (v grub.SlotView) {
	_ = withSlot(file, false, func(dir string) error { // what cannot be read is what is to be seen
		id, err := readIdentity(dir)
		if err != nil {
			return err
		}
		v.ID = id.ID
		want, err := os.ReadFile(filepath.Join(dir, ImageDir, fileBoot))
		if err != nil {
			return err
		}
		v.Match = true
		for _, line := range strings.Split(strings.TrimSpace(string(want)), "\n") {
			sum, err := hashFile(context.Background(), filepath.Join(dir, path(line)))
			v.Match = v.Match && err == nil && strings.HasPrefix(line, hex.EncodeToString(sum))
		}
		return nil
	})
	return v
}

func mountLoop(t testing.TB, file, at string, flags uintptr, options string, do func()) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	require.NoError(t, err)
	loop, err := attach(f, os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, unix.Mount(loop.Name(), at, "ext4", flags, options), "mount %s", file)
	do()
	if flags&unix.MS_RDONLY == 0 {
		writeBack(t, at)
	}
	require.NoError(t, unmount(at))
	_ = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0) // autoclear does it otherwise
	require.NoError(t, loop.Close())
}

// writeBack brings everything to its place. An unmount alone does not while another test has a copy of the mount in a namespace of
// its own.
func writeBack(t testing.TB, at string) {
	t.Helper()
	err := whileBusy(context.Background(), func() error { return unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_RDONLY, "") })
	require.NoError(t, err)
}

func unmount(dir string) error {
	return whileBusy(context.Background(), func() error { return unix.Unmount(dir, 0) })
}

func tempDirIn(t testing.TB, dir string) string {
	t.Helper()
	made, err := os.MkdirTemp(dir, "at-")
	require.NoError(t, err)
	return made
}

func tool(t testing.TB, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
}
