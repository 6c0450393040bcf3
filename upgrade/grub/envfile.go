package grub

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// EnvPath is where a machine has its boot environment.
const EnvPath = "/oem/grubenv"

// ReadEnv reads the environment from a file. ErrEnvUnreadable says that it is missing, or not one that can be written in place.
func ReadEnv(path string) (Env, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: %w", ErrEnvUnreadable, err)
		}
		return Env{}, fmt.Errorf("read boot environment: %w", err)
	}
	defer f.Close() // only read
	block, err := io.ReadAll(io.LimitReader(f, EnvSize+1))
	if err == nil && len(block) != EnvSize {
		err = fmt.Errorf("%w: not %d bytes", ErrEnvUnreadable, EnvSize)
	}
	if err != nil {
		return Env{}, fmt.Errorf("read boot environment %s: %w", path, err)
	}
	env, err := DecodeEnv(block)
	if err != nil {
		return Env{}, fmt.Errorf("read boot environment %s: %w", path, err)
	}
	return env, nil
}

// Write overwrites the environment in place. The file keeps its blocks: GRUB finds them by what the disk says, not the
// journal, so a file that is truncated or replaced would show GRUB the old values, or GRUB would write into freed blocks.
// A file that is not EnvSize bytes is refused with ErrEnvUnreadable; CreateEnv makes a new one.
func (e Env) Write(path string) error {
	block, err := e.Encode()
	if err != nil {
		return fmt.Errorf("write boot environment %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: %w", ErrEnvUnreadable, err)
		}
		return fmt.Errorf("write boot environment: %w", err)
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != EnvSize) {
		err = fmt.Errorf("%w: %d bytes, want %d", ErrEnvUnreadable, info.Size(), EnvSize)
	}
	if err == nil {
		_, err = f.WriteAt(block, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write boot environment %s: %w", path, err)
	}
	return nil
}

// CreateEnv makes the file, or replaces one that is no environment. Its bytes are on the disk, in blocks of their own,
// when it returns. GRUB does not replay the journal: whoever replaces the file on a mounted file system must also have
// the journal written back (syncfs) before the machine starts again.
func CreateEnv(path string, e Env) error {
	block, err := e.Encode()
	if err != nil {
		return fmt.Errorf("create boot environment %s: %w", path, err)
	}
	aside := path + ".new"
	err = writeSynced(aside, block)
	if err == nil {
		err = os.Rename(aside, path)
	}
	if err != nil {
		_ = os.Remove(aside) // the first error is what matters
		return fmt.Errorf("create boot environment %s: %w", path, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("create boot environment %s: %w", path, err)
	}
	return nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	// Written bytes, not a hole: GRUB can only write to blocks that exist, and the fsync allocates them.
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
