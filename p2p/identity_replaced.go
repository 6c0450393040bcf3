package p2p

import (
	"errors"
	"os"
	"path/filepath"
)

// stateDisk is what an identity changes on disk, each call whole or not at all
// when power fails.
type stateDisk interface {
	Write(path string, data []byte) error // mode 0600
	Rename(from, to string) error
	Mkdir(path string) error // mode 0700; no error if it is there
	RemoveAll(path string) error
}

// moveAside moves everything in dir into dir/replaced, in place of what an
// earlier replacement left there. It stays on the same file system, where a
// rename needs no space, and there is never more than one copy. It can be cut at
// any line: the identity is moved last, and until the very end the partial
// directory says that a replacement is under way.
func moveAside(dir string, disk stateDisk) error {
	partial, final := filepath.Join(dir, replacedPartialDir), filepath.Join(dir, replacedDir)
	if err := disk.Mkdir(partial); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case replacedPartialDir, replacedDir, identityFile:
			continue
		}
		if err := disk.Rename(filepath.Join(dir, e.Name()), filepath.Join(partial, e.Name())); err != nil {
			return err
		}
	}
	err = disk.Rename(filepath.Join(dir, identityFile), filepath.Join(partial, identityFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := disk.RemoveAll(final); err != nil {
		return err
	}
	return disk.Rename(partial, final)
}

// osDisk is the real one.
type osDisk struct{}

func (osDisk) Write(path string, data []byte) error { return WriteFile(path, data, 0o600) }

func (osDisk) Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return errors.Join(syncDir(filepath.Dir(from)), syncDir(filepath.Dir(to)))
}

func (osDisk) Mkdir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func (osDisk) RemoveAll(path string) error { return os.RemoveAll(path) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
