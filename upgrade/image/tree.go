package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// writeTree writes the tree at root as a tar: sorted, owners as numbers, hard links, devices and attributes kept, times no
// later than latest unless that is zero. Other file systems mounted inside are left out, so that the running system is a
// tree as well; their mount points are kept. With layer, names that would mean something
// else in a layer are refused.
func writeTree(ctx context.Context, w io.Writer, root string, latest time.Time, layer bool) error {
	var top unix.Stat_t
	if err := unix.Stat(root, &top); err != nil {
		return &fs.PathError{Op: "stat", Path: root, Err: err}
	}
	t := &treeWriter{w: tar.NewWriter(w), root: root, dev: top.Dev, latest: latest, layer: layer, linked: map[uint64]string{}}
	err := filepath.WalkDir(filepath.Clean(root)+"/", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return t.add(name)
	})
	if err != nil {
		return fmt.Errorf("read tree %s: %w", root, err)
	}
	return t.w.Close()
}

type treeWriter struct {
	w      *tar.Writer
	root   string
	dev    uint64
	latest time.Time
	layer  bool
	linked map[uint64]string // first name of files with several
}

func (t *treeWriter) add(path string) error {
	rel, err := filepath.Rel(t.root, path)
	if err != nil {
		return err
	}
	if t.layer && strings.HasPrefix(filepath.Base(rel), whiteoutPrefix) {
		return fmt.Errorf("%s: a name that starts with %q means a deletion in an image", rel, whiteoutPrefix)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	h := &tar.Header{
		Name: rel, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, 0), Format: tar.FormatPAX,
	}
	if !t.latest.IsZero() && h.ModTime.After(t.latest) {
		h.ModTime = t.latest
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFSOCK:
		return nil // a socket is nothing without its process
	default:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	}
	if st.Nlink > 1 && h.Typeflag != tar.TypeDir {
		if first, ok := t.linked[st.Ino]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return t.w.WriteHeader(h)
		}
		t.linked[st.Ino] = rel
	}
	if h.PAXRecords, err = readAttributes(path); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg {
		return t.content(path, h)
	}
	if err := t.w.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	if h.Typeflag == tar.TypeDir && st.Dev != t.dev {
		return fs.SkipDir
	}
	return nil
}

func (t *treeWriter) content(path string, h *tar.Header) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.w.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	if _, err := io.CopyN(t.w, f, h.Size); err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%s became shorter while it was read", path)
		}
		return err
	}
	return nil
}

func readAttributes(path string) (map[string]string, error) {
	size, err := unix.Llistxattr(path, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(path, names); err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	records := map[string]string{}
	for name := range strings.SplitSeq(strings.Trim(string(names[:size]), "\x00"), "\x00") {
		// What the machine at hand put there (SELinux labels, overlayfs's marks) is not the tree's.
		if name != "security.capability" && !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "system.posix_acl_") {
			continue
		}
		value := make([]byte, 64<<10) // the kernel's limit, XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		records[xattrPrefix+name] = string(value[:n])
	}
	if len(records) == 0 {
		return nil, nil
	}
	return records, nil
}
