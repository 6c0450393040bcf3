package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// inits are what becomes PID 1, the first that the image has.
var inits = []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/sbin/init", "/usr/sbin/init"}

var initEnvironment = []string{"HOME=/", "TERM=linux", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// managerConfig makes systemd take the watchdog over where the image says nothing of it; a file of the image with a later name wins.
const managerConfig = "[Manager]\nRuntimeWatchdogSec=60s\n"

// switchRoot makes sysroot the root, frees the initramfs and becomes PID 1.
func (m *machine) switchRoot(wanted string) error {
	name, err := m.findInit(wanted)
	if err != nil {
		return err
	}
	if err := m.handWatchdog(name); err != nil {
		m.logf("watchdog: %v", err)
	}
	m.logf("switching root, %d problems, then %s", len(m.report.Problems), name)
	root, err := os.Open("/")
	if err != nil {
		return err
	}
	if err := freeInitramfs(root); err != nil {
		m.logf("free the initramfs: %v", err) // costs a few MB
	}
	root.Close()
	if err := unix.Chdir(sysroot); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("switch root: move: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	err = unix.Exec(name, []string{"/sbin/init"}, initEnvironment)
	return fmt.Errorf("run %s: %w", name, err)
}

// findInit looks with the image's eyes: its links are absolute.
func (m *machine) findInit(wanted string) (string, error) {
	candidates := inits
	if wanted != "" {
		candidates = []string{wanted}
	}
	root, err := os.OpenRoot(m.path(sysroot))
	if err != nil {
		return "", err
	}
	defer root.Close()
	for _, name := range candidates {
		info, err := root.Lstat(name[1:])
		if err != nil {
			continue
		}
		if info.Mode()&fs.ModeSymlink != 0 || (info.Mode().IsRegular() && info.Size() > 0 && info.Mode()&0o111 != 0) {
			return name, nil
		}
	}
	return "", fmt.Errorf("none of %q is a program in the image", candidates)
}

// handWatchdog leaves it armed for systemd and stops it for any other PID 1.
func (m *machine) handWatchdog(name string) error {
	target := name
	if link, err := os.Readlink(m.path(sysroot) + name); err == nil {
		target = link
	}
	if filepath.Base(target) != "systemd" {
		return m.watchdog.disarm()
	}
	if err := writeFile(m.path("/run/systemd/system.conf.d/00-muster-init.conf"), []byte(managerConfig)); err != nil {
		return errors.Join(err, m.watchdog.disarm())
	}
	m.watchdog.leave()
	return nil
}

// freeInitramfs removes all files of the initramfs, and nothing on another file system.
func freeInitramfs(root *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return err
	}
	var fsinfo unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &fsinfo); err != nil {
		return err
	}
	if fsinfo.Type != unix.RAMFS_MAGIC && fsinfo.Type != unix.TMPFS_MAGIC {
		return errors.New("the root is no initramfs") // someone ran this on a real disk
	}
	return removeBelow(root.Name(), st.Dev)
}

func removeBelow(dir string, device uint64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var failed error
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil || st.Dev != device {
			continue
		}
		if e.IsDir() {
			if err := removeBelow(name, device); err != nil {
				failed = errors.Join(failed, err)
				continue
			}
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, unix.EBUSY) { // EBUSY: something is mounted on it
			failed = errors.Join(failed, err)
		}
	}
	return failed
}
