package p2p

import (
	"errors"
	"fmt"
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

// replaceIdentity moves everything in dir into dir/replaced, in place of what an
// earlier replacement left there, and makes a new identity. It stays on the same
// file system, where a rename needs no space, and there is never more than one
// copy. It can be cut at any line: the old identity is moved last, and from then
// until the new one is on disk the partial directory says what is under way.
func replaceIdentity(dir string, hw Hardware, disk stateDisk) (*Identity, error) {
	if err := moveAside(dir, disk); err != nil {
		return nil, fmt.Errorf("move the state of another machine aside in %s: %w", dir, err)
	}
	id, err := createIdentity(dir, hw, disk, true)
	if err != nil {
		return nil, err
	}
	return id, keepAside(dir, disk)
}

func moveAside(dir string, disk stateDisk) error {
	partial := filepath.Join(dir, replacedPartialDir)
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
	if errors.Is(err, os.ErrNotExist) {
		return nil // moved before the cut
	}
	return err
}

// keepAside makes what was moved the one copy that is kept.
func keepAside(dir string, disk stateDisk) error {
	final := filepath.Join(dir, replacedDir)
	err := disk.RemoveAll(final)
	if err == nil {
		err = disk.Rename(filepath.Join(dir, replacedPartialDir), final)
	}
	if err != nil {
		return fmt.Errorf("keep the state of another machine in %s: %w", final, err)
	}
	return nil
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
