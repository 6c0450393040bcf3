package lab

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// imageDirs are the parts of the host that play the read-only image. On a merged-/usr system most are symbolic links.
var imageDirs = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt"}

// emptyDirs exist in every node and start empty at every boot.
var emptyDirs = []string{
	"proc", "sys", "dev", "run/lock", "oem", "etc/muster", "etc/rancher", "home", "media", "mnt", "srv",
	"var/cache", "var/lib/rancher", "var/lib/kubelet", "var/log", "var/spool",
}

// buildRoot gives the node a file system of its own and leaves the host's behind. The root is a tmpfs, so whatever is not on one
// of the persistent directories is gone with the power, as on an image that is read-only.
func buildRoot(task *nodeTask) error {
	root := filepath.Join(task.Dir, "root")
	// Nothing that happens from here on may reach the host's mounts.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, name := range imageDirs {
		if err := showImageDir(name, root); err != nil {
			return err
		}
	}
	if err := copyTree("/etc", filepath.Join(root, "etc"), "rancher", "muster", "kubernetes"); err != nil {
		return fmt.Errorf("make /etc: %w", err)
	}
	for _, name := range emptyDirs {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	for name, mode := range map[string]os.FileMode{"root": 0o700, "tmp": 0o777 | os.ModeSticky, "var/tmp": 0o777 | os.ModeSticky} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, mode)); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Symlink("/run", root+"/var/run"), os.Symlink("/run/lock", root+"/var/lock")); err != nil {
		return err
	}
	if err := writeIdentityFiles(task, filepath.Join(root, "etc")); err != nil {
		return err
	}
	if err := mountKernelFiles(root); err != nil {
		return err
	}
	for _, d := range persistent {
		if err := bind(filepath.Join(task.Dir, d.name), root+d.place, false); err != nil {
			return err
		}
	}
	if err := installPrograms(task, root); err != nil {
		return err
	}
	for _, inside := range slices.Sorted(maps.Keys(task.Binds)) {
		if err := bindNew(task.Binds[inside], filepath.Join(root, inside)); err != nil {
			return err
		}
	}
	return changeRoot(root)
}

// showImageDir makes /name of the host visible, read-only.
func showImageDir(name, root string) error {
	source, target := "/"+name, filepath.Join(root, name)
	info, err := os.Lstat(source)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		link, err := os.Readlink(source)
		if err != nil {
			return err
		}
		return os.Symlink(link, target)
	}
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	return bind(source, target, true)
}

// writeIdentityFiles makes the files by which a freshly booted image differs from the host.
func writeIdentityFiles(task *nodeTask, etc string) error {
	files := map[string]string{
		"hostname": task.Hostname + "\n",
		"hosts":    "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n" + labHosts(task.Subnet),
		// No resolver: a lab has no way to the Internet, and a query must fail at once.
		"resolv.conf": "",
		"machine-id":  strings.ReplaceAll(task.Hardware, "-", "") + "\n",
	}
	for name, content := range files {
		path := filepath.Join(etc, name)
		// The host's may be a symbolic link to somewhere that does not exist here.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func mountKernelFiles(root string) error {
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount("proc", root+"/proc", "proc", plain, ""); err != nil {
		return err
	}
	if err := mount("sysfs", root+"/sys", "sysfs", plain, ""); err != nil {
		return err
	}
	// A new sysfs shows this network namespace's devices but no control groups; a real kubelet needs both.
	if _, err := os.Stat("/sys/fs/cgroup"); err == nil {
		if err := bind("/sys/fs/cgroup", root+"/sys/fs/cgroup", false); err != nil {
			return err
		}
	}
	if err := bind("/dev", root+"/dev", false); err != nil {
		return err
	}
	if _, err := os.Stat(root + "/dev/shm"); err == nil {
		if err := mount("tmpfs", root+"/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
			return err
		}
	}
	if err := mount("tmpfs", root+"/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	return os.Mkdir(root+"/run/lock", 0o755)
}

// installPrograms puts muster and, if the lab has one, k3s where an image would. They are bound, not copied: nodes share the
// page cache, and cannot change them.
func installPrograms(task *nodeTask, root string) error {
	bin := filepath.Join(root, "usr/local/bin")
	// What a boot with other programs left: an empty file that a program was bound over.
	for _, name := range []string{"muster", "k3s"} {
		if info, err := os.Lstat(filepath.Join(bin, name)); err == nil && info.Size() == 0 {
			if err := os.Remove(filepath.Join(bin, name)); err != nil {
				return err
			}
		}
	}
	if err := bindNew(task.Binary, filepath.Join(bin, "muster")); err != nil {
		return err
	}
	if task.K3s == "" {
		return nil
	}
	if err := bindNew(task.K3s, filepath.Join(bin, "k3s")); err != nil {
		return err
	}
	if err := os.Symlink("k3s", filepath.Join(bin, "kubectl")); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// bindNew binds source read-only over target, which is made if it does not exist.
func bindNew(source, target string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o755); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	return bind(source, target, true)
}

func bind(source, target string, readOnly bool) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("bind %s read-only: %w", source, err)
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, target, err)
	}
	return nil
}

// changeRoot makes root the root and drops the old one, so that the node keeps nothing of the host busy. Both are stacked on
// the same place, which needs no directory for the old one (pivot_root(2), NOTES).
func changeRoot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	return os.Chdir("/")
}

// copyTree copies directories, regular files and symbolic links with their modes and owners; other kinds of files, and the
// top-level names in without, are left out.
func copyTree(from, to string, without ...string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return nil // the tree may be in use
			}
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if slices.Contains(without, relative) {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		err = copyEntry(path, filepath.Join(to, relative), entry)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
}

func copyEntry(from, to string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	switch {
	case info.IsDir():
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
	case info.Mode().IsRegular():
		if err := copyFile(from, to); err != nil {
			return err
		}
	case info.Mode()&os.ModeSymlink != 0:
		link, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(link, to)
	default:
		return nil
	}
	var stat unix.Stat_t
	if err := unix.Lstat(from, &stat); err != nil {
		return err
	}
	return errors.Join(os.Chown(to, int(stat.Uid), int(stat.Gid)), os.Chmod(to, info.Mode()))
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
