package boot

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// seed copies each of paths below root into state as NAME.bind where that is not there. Copies are made aside and renamed when they are
// on the disk: a power cut leaves a whole copy or none. A path that cannot be copied does not keep the others from it.
func seed(root, state string, paths []string) error {
	if err := os.MkdirAll(state, 0o755); err != nil {
		return err
	}
	var failed error
	var fresh []string
	for _, p := range paths {
		name := filepath.Join(state, bindName(p))
		if _, err := os.Lstat(name); err == nil {
			continue
		}
		if err := os.RemoveAll(name + ".new"); err != nil { // of a boot that was cut off
			failed = errors.Join(failed, err)
			continue
		}
		if err := copyTree(root+p, name+".new"); err != nil {
			failed = errors.Join(failed, fmt.Errorf("seed %s: %w", p, err))
			continue
		}
		fresh = append(fresh, name)
	}
	if fresh == nil {
		return failed
	}
	if err := syncFS(state); err != nil {
		return errors.Join(failed, err)
	}
	for _, name := range fresh {
		failed = errors.Join(failed, os.Rename(name+".new", name))
	}
	return errors.Join(failed, syncFS(state))
}

func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// copyTree copies directories, files and links with owners, modes and extended attributes. A source that is not there becomes an empty
// directory. Devices and sockets have no business in an image's /etc and /var and are left out.
func copyTree(source, target string) error {
	info, err := os.Lstat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Mkdir(target, 0o755)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory", source)
	}
	return copyEntry(source, target, info)
}

func copyEntry(source, target string, info fs.FileInfo) error {
	switch {
	case info.IsDir():
		if err := os.Mkdir(target, 0o700); err != nil {
			return err
		}
		entries, err := os.ReadDir(source)
		if err != nil {
			return err
		}
		for _, e := range entries {
			child, err := e.Info()
			if err != nil {
				return err
			}
			if err := copyEntry(filepath.Join(source, e.Name()), filepath.Join(target, e.Name()), child); err != nil {
				return err
			}
		}
	case info.Mode().IsRegular():
		if err := copyFile(source, target); err != nil {
			return err
		}
	case info.Mode()&fs.ModeSymlink != 0:
		link, err := os.Readlink(source)
		if err != nil {
			return err
		}
		if err := os.Symlink(link, target); err != nil {
			return err
		}
		uid, gid := owner(info)
		return os.Lchown(target, uid, gid)
	default:
		return nil
	}
	if err := copyOwner(target, info); err != nil {
		return err
	}
	if err := copyAttributes(source, target); err != nil {
		return err
	}
	return os.Chtimes(target, info.ModTime(), info.ModTime())
}

func copyFile(source, target string) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return fmt.Errorf("copy %s: %w", source, err)
	}
	return out.Close()
}

// copyAttributes copies capabilities and access lists; a target without them is no reason to lose the file.
func copyAttributes(source, target string) error {
	names := make([]byte, 4<<10)
	n, err := unix.Llistxattr(source, names)
	if err != nil || n == 0 {
		return nil //nolint:nilerr // the file system has none
	}
	for _, name := range strings.Split(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		size, err := unix.Lgetxattr(source, name, value)
		if err != nil {
			return fmt.Errorf("read %s of %s: %w", name, source, err)
		}
		if err := unix.Lsetxattr(target, name, value[:size], 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("set %s of %s: %w", name, target, err)
		}
	}
	return nil
}

func owner(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return 0, 0
}

// persistID gives the machine the id that kept holds, and makes it one when there is none: the id must be older than what systemd
// starts, and outlive the image.
func persistID(kept, target string) error {
	id, err := readID(kept)
	if err != nil {
		raw := make([]byte, 16)
		rand.Read(raw)
		raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80 // a version 4 UUID, as machine-id(5) asks
		id = hex.EncodeToString(raw)
		if err := writeSynced(kept, id+"\n"); err != nil {
			// The boot still gets an id, if a new one each time.
			return errors.Join(fmt.Errorf("keep the machine-id: %w", err), os.WriteFile(target, []byte(id+"\n"), 0o444))
		}
	}
	if err := writeFile(target, []byte(id+"\n")); err != nil {
		return fmt.Errorf("write the machine-id: %w", err)
	}
	return os.Chmod(target, 0o444)
}

var errNoID = errors.New("no machine-id")

func readID(name string) (string, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(data))
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" || strings.Trim(id, "0") == "" {
		return "", fmt.Errorf("%s: %w", name, errNoID)
	}
	return id, nil
}

// writeSynced writes aside, syncs, renames and syncs the directory.
func writeSynced(name, content string) error {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o444)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	return syncFS(dir)
}
