package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// errNotInImage says that a path is to be mounted over that the image lacks and that cannot be made.
var errNotInImage = errors.New("not in the image")

// mountFlags are the options that are flags; all others go to the file system.
var mountFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "rw": 0, "noatime": unix.MS_NOATIME, "nodev": unix.MS_NODEV, "nosuid": unix.MS_NOSUID, "noexec": unix.MS_NOEXEC,
	"remount": unix.MS_REMOUNT,
}

func mount(source, target, fstype, options string) error {
	if err := mountpoint(target); err != nil {
		return err
	}
	var flags uintptr
	var data []string
	for _, o := range strings.Split(options, ",") {
		if flag, ok := mountFlags[o]; ok {
			flags |= flag
		} else if o != "" {
			data = append(data, o)
		}
	}
	if err := unix.Mount(source, target, fstype, flags, strings.Join(data, ",")); err != nil {
		return fmt.Errorf("mount %s %s on %s: %w", fstype, source, target, err)
	}
	return nil
}

// mountpoint makes the directory, where that can be.
func mountpoint(target string) error {
	err := os.MkdirAll(target, 0o755)
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%s: %w", target, errNotInImage)
	}
	return err
}

func mountOverlay(target, layer string) error {
	info, err := os.Stat(target)
	if errors.Is(err, fs.ErrNotExist) {
		if err := mountpoint(target); err != nil {
			return err
		}
		info, err = os.Stat(target)
	}
	if err != nil {
		return err
	}
	upper, work := layer+"/upper", layer+"/work"
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := copyOwner(upper, info); err != nil { // the merged directory has the upper one's mode
		return err
	}
	return mount("overlay", target, "overlay", "lowerdir="+target+",upperdir="+upper+",workdir="+work)
}

func bind(source, target string) error {
	if _, err := os.Stat(source); err != nil {
		return fmt.Errorf("bind on %s: %w", target, err)
	}
	if err := mountpoint(target); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s on %s: %w", source, target, err)
	}
	return nil
}

// moveMount leaves a link behind, so that a path means the same before and after.
func moveMount(source, target string) error {
	if err := mountpoint(target); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to %s: %w", source, target, err)
	}
	if err := os.Rename(source, source+".moved"); err != nil { // it need not be empty: the initramfs has a /dev/console
		return fmt.Errorf("move %s: %w", source, err)
	}
	link, err := filepath.Rel(filepath.Dir(source), target)
	if err != nil {
		return err
	}
	return os.Symlink(link, source)
}

// mountKernel mounts what the kernel gives.
func (m *machine) mountKernel() error {
	for _, k := range []struct{ fstype, target, options string }{
		{"proc", "/proc", "nosuid,nodev,noexec"},
		{"sysfs", "/sys", "nosuid,nodev,noexec"},
		{"devtmpfs", "/dev", "nosuid,mode=0755"},
		{"tmpfs", "/run", "nosuid,nodev,mode=0755,size=20%"},
	} {
		err := mount(k.fstype, k.target, k.fstype, k.options)
		if err != nil && !(k.target == "/dev" && errors.Is(err, unix.EBUSY)) { // CONFIG_DEVTMPFS_MOUNT did it
			return err
		}
	}
	return nil
}

func copyOwner(name string, info fs.FileInfo) error {
	uid, gid := owner(info)
	if err := os.Lchown(name, uid, gid); err != nil {
		return err
	}
	return os.Chmod(name, info.Mode().Perm()|info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky))
}
