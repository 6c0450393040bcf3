package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// applier lays layers out in a directory. It is what survey is, on disk.
type applier struct {
	root  *rootDir
	layer map[place]bool       // what this layer put where
	times map[string]time.Time // of directories: set last, for every name made in one changes it
	wrote func(n int)
}

// place names a thing by the directory it is in, not by a path: links give one thing many paths.
type place struct {
	dir  uint64
	base string
}

func newApplier(dir string, wrote func(int)) (*applier, error) {
	root, err := openRootDir(dir)
	if err != nil {
		return nil, err
	}
	return &applier{root: root, times: map[string]time.Time{}, wrote: wrote}, nil
}

func (a *applier) add(ctx context.Context, r io.Reader, layered bool, b *budget) error {
	a.layer = map[place]bool{}
	return eachEntry(ctx, r, layered, b, a.apply)
}

// finish sets the times of directories.
func (a *applier) finish() error {
	for _, name := range slices.Sorted(maps.Keys(a.times)) {
		parent, base, err := a.root.parent(name, false, nil)
		if err != nil {
			continue // a later layer took it away
		}
		var st unix.Stat_t
		if unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = setTime(parent, base, a.times[name])
		}
		_ = unix.Close(parent)
		if err != nil {
			return fmt.Errorf("set time of %q: %w", short(name), err)
		}
	}
	return nil
}

func (a *applier) close() { a.root.close() }

func (a *applier) apply(e *entry) error {
	switch {
	case e.opaque:
		return a.hideChildren(e.name)
	case e.whiteout:
		return a.hide(e.name)
	case e.name == "":
		return a.setRoot(e)
	}
	parent, base, err := a.root.parent(e.name, true, a.mark)
	if err != nil {
		return notADirectory(err)
	}
	defer unix.Close(parent)
	switch e.Typeflag {
	case tar.TypeDir:
		err = a.directory(parent, base, e)
	case tar.TypeLink:
		err = a.hardLink(parent, base, e)
	case tar.TypeSymlink:
		err = a.symlink(parent, base, e)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		err = a.node(parent, base, e)
	default:
		err = a.file(parent, base, e)
	}
	if err != nil {
		return err
	}
	return a.mark(parent, base)
}

// notADirectory gives the kernel's complaints about a path that leads through something else their sentinel.
func notADirectory(err error) error {
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENAMETOOLONG) {
		return fmt.Errorf("%w: its directory: %w", ErrMalformed, err)
	}
	return err
}

func (a *applier) mark(parent int, base string) error {
	var st unix.Stat_t
	if err := unix.Fstat(parent, &st); err != nil {
		return err
	}
	a.layer[place{st.Ino, base}] = true
	return nil
}

func (a *applier) setRoot(e *entry) error {
	fd, err := a.root.at("", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return dress(fd, e)
}

func (a *applier) directory(parent int, base string, e *entry) error {
	err := unix.Mkdirat(parent, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		err = nil
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err = unix.Unlinkat(parent, base, 0); err == nil {
				err = unix.Mkdirat(parent, base, 0o700)
			}
		}
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	a.times[e.name] = e.ModTime
	return dress(fd, e)
}

func (a *applier) hardLink(parent int, base string, e *entry) error {
	from, last, err := a.root.parent(e.target, false, nil)
	if err != nil {
		return fmt.Errorf("%w: hard link to %q: %w", ErrMalformed, short(e.target), err)
	}
	defer unix.Close(from)
	var source, target unix.Stat_t
	if err := unix.Fstatat(from, last, &source, unix.AT_SYMLINK_NOFOLLOW); err != nil || source.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Errorf("%w: hard link to %q, which is not a file", ErrMalformed, short(e.target))
	}
	if unix.Fstatat(parent, base, &target, unix.AT_SYMLINK_NOFOLLOW) == nil && target.Ino == source.Ino && target.Dev == source.Dev {
		return nil // the same file already, perhaps by the same name
	}
	if err := remove(parent, base); err != nil {
		return err
	}
	if err := unix.Linkat(from, last, parent, base, 0); err != nil {
		return fmt.Errorf("%w: hard link to %q: %w", ErrMalformed, short(e.target), err)
	}
	return nil
}

func (a *applier) symlink(parent int, base string, e *entry) error {
	if err := remove(parent, base); err != nil {
		return err
	}
	if err := unix.Symlinkat(e.Linkname, parent, base); err != nil {
		return err
	}
	return dressByName(parent, base, e)
}

func (a *applier) node(parent int, base string, e *entry) error {
	if err := remove(parent, base); err != nil {
		return err
	}
	if e.Devmajor < 0 || e.Devminor < 0 || e.Devmajor >= 1<<12 || e.Devminor >= 1<<20 {
		return fmt.Errorf("%w: device %d:%d", ErrMalformed, e.Devmajor, e.Devminor)
	}
	mode := uint32(fileType(e.Typeflag))
	if err := unix.Mknodat(parent, base, mode, int(unix.Mkdev(uint32(e.Devmajor), uint32(e.Devminor)))); err != nil {
		return err
	}
	return dressByName(parent, base, e)
}

func (a *applier) file(parent int, base string, e *entry) error {
	if err := remove(parent, base); err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), e.name)
	_, err = io.Copy(countingWriter{f, a.wrote}, e.content)
	if err == nil {
		err = dress(fd, e)
	}
	if err == nil {
		err = unix.UtimesNano(procPath(fd), clampTimes(e.ModTime))
	}
	return errors.Join(err, f.Close())
}

// dress gives an open file or directory its owner, mode and attributes. The owner comes first: to change it clears setuid
// and file capabilities.
func dress(fd int, e *entry) error {
	if err := unix.Fchown(fd, e.Uid, e.Gid); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", e.Uid, e.Gid, err)
	}
	if err := unix.Fchmod(fd, uint32(e.Mode)&0o7777); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	return eachAttribute(e, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
}

// dressByName does the same for what cannot be opened: links and devices.
func dressByName(parent int, base string, e *entry) error {
	if err := unix.Fchownat(parent, base, e.Uid, e.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", e.Uid, e.Gid, err)
	}
	if e.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(parent, base, uint32(e.Mode)&0o7777, 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	err := eachAttribute(e, func(name string, value []byte) error {
		return unix.Lsetxattr(procPath(parent)+"/"+base, name, value, 0)
	})
	if err != nil {
		return err
	}
	return setTime(parent, base, e.ModTime)
}

// attributes that may be set: a tree must not carry what overlayfs keeps for itself in trusted.*.
var attributes = []string{"user.", "security.", "system.posix_acl_"}

func eachAttribute(e *entry, set func(name string, value []byte) error) error {
	for _, key := range slices.Sorted(maps.Keys(e.PAXRecords)) {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok {
			continue
		}
		if !slices.ContainsFunc(attributes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			return fmt.Errorf("%w: attribute %q", ErrUnsafe, short(name))
		}
		if err := set(name, []byte(e.PAXRecords[key])); err != nil {
			return fmt.Errorf("set attribute %s: %w", short(name), err)
		}
	}
	return nil
}

func setTime(parent int, base string, t time.Time) error {
	return unix.UtimesNanoAt(parent, base, clampTimes(t), unix.AT_SYMLINK_NOFOLLOW)
}

// clampTimes keeps times to what every file system can hold.
func clampTimes(t time.Time) []unix.Timespec {
	second := min(max(t.Unix(), 0), 1<<32)
	ts := unix.Timespec{Sec: second, Nsec: int64(t.Nanosecond())}
	return []unix.Timespec{ts, ts}
}

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// remove makes room for an entry that replaces another.
func remove(parent int, base string) error {
	err := unix.Unlinkat(parent, base, 0)
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR):
		return err
	}
	names, err := list(parent, base)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, name := range names {
		if err := remove(fd, name); err != nil {
			return err
		}
	}
	return unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
}

// list returns the names in a directory, which must not be a link.
func list(parent int, base string) ([]string, error) {
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	return f.Readdirnames(-1)
}

// unlessNothing forgets the errors of paths that lead nowhere: there is nothing to hide.
func unlessNothing(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	return err
}

func (a *applier) hide(name string) error {
	parent, base, err := a.root.parent(name, false, nil)
	if err != nil {
		return unlessNothing(err)
	}
	defer unix.Close(parent)
	return a.removeLower(parent, base)
}

func (a *applier) hideChildren(name string) error {
	fd, err := a.root.at(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return unlessNothing(err)
	}
	defer unix.Close(fd)
	return a.removeLowerIn(fd)
}

func (a *applier) removeLowerIn(dir int) error {
	names, err := list(dir, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := a.removeLower(dir, name); err != nil {
			return err
		}
	}
	return nil
}

// removeLower removes what lower layers put at base; what this layer put there or below stays.
func (a *applier) removeLower(parent int, base string) error {
	var dir, st unix.Stat_t
	if err := unix.Fstat(parent, &dir); err != nil {
		return err
	}
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	ours := a.layer[place{dir.Ino, base}]
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if ours {
			return nil
		}
		return unix.Unlinkat(parent, base, 0)
	}
	fd, err := unix.Openat(parent, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := a.removeLowerIn(fd); err != nil || ours {
		return err
	}
	if err := unix.Unlinkat(parent, base, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// emptied removes everything in dir except for what mkfs puts there.
func emptied(dir string) error {
	found, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var all error
	for _, d := range found {
		if d.Name() != lostAndFound {
			all = errors.Join(all, os.RemoveAll(filepath.Join(dir, d.Name())))
		}
	}
	return all
}

const lostAndFound = "lost+found"

type countingWriter struct {
	w     io.Writer
	wrote func(int)
}

func (c countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.wrote(n)
	return n, err
}
