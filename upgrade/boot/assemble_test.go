package boot

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// initramfs is a folder that stands for the root of an initramfs, with an image, in a mount namespace of its own.
type initramfs struct {
	t       *testing.T
	machine machine
	devices map[string]string
}

// inNamespace runs the test on a thread that nothing else runs on afterwards: its mounts go with it.
func inNamespace(t *testing.T, test func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // not unlocked: the thread ends with this
		require.NoError(t, unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS))
		require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		test()
	}()
	<-done
}

func newInitramfs(t *testing.T) *initramfs {
	t.Helper()
	root := t.TempDir()
	for _, m := range append([]string{sysroot, stateMount}, moved...) {
		require.NoError(t, os.MkdirAll(root+m, 0o755))
	}
	require.NoError(t, mount("proc", root+"/proc", "proc", ""))
	require.NoError(t, bind("/sys", root+"/sys"))
	require.NoError(t, bind("/dev", root+"/dev"))
	require.NoError(t, mount("tmpfs", root+"/run", "tmpfs", "mode=0755"))

	image, state := t.TempDir(), t.TempDir()
	for _, dir := range []string{
		"proc", "sys", "dev", "run", "tmp", "oem", "usr/local", "usr/lib/systemd", "etc/ssh", "var/log", "var/lib", "srv", "home", "root", "opt",
	} {
		require.NoError(t, os.MkdirAll(filepath.Join(image, dir), 0o755))
	}
	require.NoError(t, os.WriteFile(image+"/etc/ssh/sshd_config", []byte("of the image"), 0o600))
	require.NoError(t, os.WriteFile(image+"/usr/lib/systemd/systemd", []byte("\x7fELF"), 0o755))
	require.NoError(t, os.Mkdir(state+"/cOS", 0o755))
	command(t, "mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", "-d", image, state+"/cOS/active.img", "8M")
	return &initramfs{t: t, machine: machine{prefix: root}, devices: map[string]string{
		labelState: loopDevice(t, labelState, "-d", state), labelOEM: loopDevice(t, labelOEM), labelPersistent: loopDevice(t, labelPersistent),
	}}
}

func loopDevice(t *testing.T, label string, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), label)
	command(t, "mkfs.ext4", append(append([]string{"-q", "-L", label}, args...), file, "24M")...)
	loop := command(t, "losetup", "-f", "--show", file)
	t.Cleanup(func() { command(t, "losetup", "-d", loop) })
	return loop
}

func (i *initramfs) path(p string) string { return i.machine.prefix + p }

func (i *initramfs) read(p string) string {
	i.t.Helper()
	data, err := os.ReadFile(i.path(p))
	require.NoError(i.t, err)
	return string(data)
}

// boot does all of a plan.
func (i *initramfs) boot(slot string, layout ...[]byte) error {
	i.t.Helper()
	steps, err := Plan(Input{
		CommandLine: "root=LABEL=COS_STATE cos-img/filename=/cOS/active.img muster.slot=" + slot, Layout: layout, Devices: i.devices,
	})
	require.NoError(i.t, err)
	for _, s := range steps {
		if err := i.machine.do(s); err != nil {
			return err
		}
	}
	return nil
}

func (i *initramfs) report() Report {
	i.t.Helper()
	var r Report
	require.NoError(i.t, json.Unmarshal([]byte(i.read("/run/muster/boot.json")), &r))
	return r
}

func withoutStages(problems []string) []string {
	var others []string
	for _, p := range problems {
		if !strings.Contains(p, "/usr/bin/muster: not in the image") {
			others = append(others, p)
		}
	}
	return others
}

func TestTheRootIsAssembled(t *testing.T) {
	inNamespace(t, func() {
		i := newInitramfs(t)
		require.NoError(t, i.boot(SlotActive, nil, nil, []byte("CUSTOM_BIND_MOUNTS=/var/lib/mine")))
		require.Empty(t, withoutStages(i.report().Problems))
		require.Len(t, i.report().Problems, 2, "an image that has no stages boots, and says so")

		require.ErrorIs(t, os.WriteFile(i.path("/sysroot/usr/x"), nil, 0o644), unix.EROFS)
		for _, p := range []string{"/etc/x", "/var/x", "/srv/x", "/usr/local/x", "/oem/x", "/home/x", "/var/lib/mine/x", "/tmp/x", "/run/x"} {
			require.NoError(t, os.WriteFile(i.path(sysroot+p), []byte("x"), 0o644), p)
		}
		require.Equal(t, "of the image", i.read("/sysroot/etc/ssh/sshd_config"))
		require.Equal(t, "1\n", i.read("/sysroot/run/cos/active_mode"))
		require.FileExists(t, i.path("/run/initramfs/cos-state/cOS/active.img"))
		require.Equal(t, "x", i.read("/sysroot/usr/local/.state/home.bind/x"))
		name, err := i.machine.findInit("")
		require.NoError(t, err)
		require.Equal(t, "/usr/lib/systemd/systemd", name)
	})
}

func TestAMountThatCannotBeDoesNotEndTheBoot(t *testing.T) {
	inNamespace(t, func() {
		i := newInitramfs(t)
		for _, label := range []string{labelOEM, labelPersistent} {
			f, err := os.OpenFile(i.devices[label], os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt(make([]byte, 64<<10), 0)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
		require.NoError(t, i.boot(SlotActive))
		require.FileExists(t, i.path("/run/muster/no-persistent"))
		problems := strings.Join(i.report().Problems, "\n")
		require.Contains(t, problems, "on "+i.path("/sysroot/oem"))
		require.Contains(t, problems, "on "+i.path("/sysroot/usr/local"))
		for _, p := range []string{"/usr/local/x", "/oem/x", "/var/log/x"} {
			require.NoError(t, os.WriteFile(i.path(sysroot+p), []byte("x"), 0o644), p)
		}
	})
}

func TestRecoveryLeavesWhatPersistsAlone(t *testing.T) {
	inNamespace(t, func() {
		i := newInitramfs(t)
		require.NoError(t, i.boot(SlotRecovery))
		require.Empty(t, withoutStages(i.report().Problems))
		require.NoError(t, os.WriteFile(i.path("/sysroot/usr/local/x"), nil, 0o644))
		require.FileExists(t, i.path("/run/cos/recovery_mode"))
		require.NoFileExists(t, i.path("/run/muster/no-persistent"))
		kept := t.TempDir()
		require.NoError(t, mount(i.devices[labelPersistent], kept, "ext4", "ro"))
		entries, err := os.ReadDir(kept)
		require.NoError(t, err)
		require.Len(t, entries, 1, "only lost+found")
	})
}

func TestAnImageThatCannotBeReadEndsTheBoot(t *testing.T) {
	inNamespace(t, func() {
		i := newInitramfs(t)
		i.devices[labelState] = i.devices[labelOEM] // a file system without the slot
		require.ErrorContains(t, i.boot(SlotActive), "loop: open the image")
	})
}

func TestAnImageThatIsNoFileSystemIsNotMounted(t *testing.T) {
	name := filepath.Join(t.TempDir(), "active.img")
	require.NoError(t, os.WriteFile(name, make([]byte, 4096), 0o600))
	require.ErrorIs(t, mountLoop(name, t.TempDir()), errFileSystem)
}

func TestAnInitThatIsNoProgramIsNotRun(t *testing.T) {
	m := machine{prefix: t.TempDir()}
	dir := m.path(sysroot) + "/usr/lib/systemd"
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.MkdirAll(m.path(sysroot)+"/sbin", 0o755))
	require.NoError(t, os.WriteFile(dir+"/systemd", nil, 0o755))
	_, err := m.findInit("")
	require.ErrorContains(t, err, "is a program in the image")
	require.NoError(t, os.Symlink("/lib/systemd/systemd", m.path(sysroot)+"/sbin/init"))
	name, err := m.findInit("")
	require.NoError(t, err)
	require.Equal(t, "/sbin/init", name)
	_, err = m.findInit("/bin/sh")
	require.Error(t, err)
}
