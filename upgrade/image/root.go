package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// rootDir is a tree whose names the kernel resolves as if the tree were "/": links and ".." stay inside, whatever they say.
// os.Root is not used because it refuses absolute links, which every distribution has (/sbin/init), and makes no devices.
type rootDir struct{ fd int }

func openRootDir(dir string) (*rootDir, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return &rootDir{fd}, nil
}

func (r *rootDir) close() { _ = unix.Close(r.fd) } // O_PATH: there is nothing to lose

// at opens name below the root; an empty name is the root itself.
func (r *rootDir) at(name string, flags int) (int, error) {
	if name == "" {
		name = "."
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(r.fd, name, &how)
		// EAGAIN: something was renamed while the kernel looked; openat2(2) says to try again
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		return fd, err
	}
}

// open opens a file for reading, links followed inside the tree.
func (r *rootDir) open(name string) (*os.File, error) {
	fd, err := r.at(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: "/" + name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// stat looks at name; follow says whether a link at its end is followed.
func (r *rootDir) stat(name string, follow bool) (unix.Stat_t, error) {
	flags := unix.O_PATH
	if !follow {
		flags |= unix.O_NOFOLLOW
	}
	var st unix.Stat_t
	fd, err := r.at(name, flags)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	return st, unix.Fstat(fd, &st)
}

// parent opens the directory that name is in and returns the last part of name. Directories that are missing on the way
// are made if create is set.
func (r *rootDir) parent(name string, create bool, made func(parent int, base string) error) (fd int, base string, err error) {
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	const flags = unix.O_PATH | unix.O_DIRECTORY
	fd, err = r.at(dir, flags)
	if !create || !errors.Is(err, unix.ENOENT) {
		return fd, base, err
	}
	up, last, err := r.parent(dir, create, made)
	if err != nil {
		return -1, "", err
	}
	defer unix.Close(up)
	if err := unix.Mkdirat(up, last, 0o755); err != nil {
		return -1, "", fmt.Errorf("make directory %q: %w", dir, err)
	}
	if err := made(up, last); err != nil {
		return -1, "", err
	}
	fd, err = r.at(dir, flags)
	return fd, base, err
}
