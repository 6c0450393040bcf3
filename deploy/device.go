package deploy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"golang.org/x/sys/unix"
)

var (
	// ErrInUse says that something on the machine uses the disk; the text says what.
	ErrInUse = errors.New("disk is in use")
	// ErrNotADisk says that a path is not a whole disk that can be installed on.
	ErrNotADisk = errors.New("not a disk to install on")
)

// Device is the disk of a running machine.
type Device struct {
	Path  string   // /dev/NAME, links resolved
	Model string   // what the disk says it is; may be empty
	Size  int64    // bytes
	Holds []string // what is on it, in words; empty: nothing that is known
}

// inspect looks at a disk without changing it. ErrNotADisk and ErrInUse say why it cannot be used.
func inspect(path string) (Device, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Device{}, fmt.Errorf("%w: %w", ErrNotADisk, err)
	}
	d := Device{Path: resolved}
	info, err := os.Stat(resolved)
	if err != nil {
		return d, fmt.Errorf("%w: %w", ErrNotADisk, err)
	}
	if info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0 {
		return d, fmt.Errorf("%w: %s is no block device", ErrNotADisk, path)
	}
	name := filepath.Base(resolved)
	sys := filepath.Join("/sys/class/block", name)
	if _, err := os.Stat(filepath.Join(sys, "partition")); err == nil {
		return d, fmt.Errorf("%w: %s is a partition; name the whole disk", ErrNotADisk, path)
	}
	if model, err := os.ReadFile(filepath.Join(sys, "device/model")); err == nil {
		d.Model = strings.TrimSpace(string(model))
	}
	f, err := os.Open(resolved)
	if err != nil {
		return d, fmt.Errorf("open disk: %w", err)
	}
	defer f.Close() // only read
	sector, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return d, fmt.Errorf("ask %s for its sector size: %w", resolved, err)
	}
	if sector != sectorSize {
		return d, fmt.Errorf("%w: sectors of %d bytes on %s; only %d can be made bootable", ErrNotADisk, sector, path, sectorSize)
	}
	if d.Size, err = f.Seek(0, 2); err != nil {
		return d, fmt.Errorf("ask %s for its size: %w", resolved, err)
	}
	d.Holds = contents(resolved)
	users, err := usersOf(resolved, name)
	if err != nil {
		return d, fmt.Errorf("look who uses %s: %w", resolved, err)
	}
	if len(users) > 0 {
		return d, fmt.Errorf("%s: %w: %s", resolved, ErrInUse, strings.Join(users, ", "))
	}
	return d, nil
}

// contents says what is on the disk, as far as its partition table tells.
func contents(path string) (holds []string) {
	f, err := os.Open(path)
	if err != nil {
		return nil // only for people; opening the disk for writing tells better
	}
	defer f.Close() // only read
	b := file.New(f, true)
	if t, err := gpt.Read(b, sectorSize, sectorSize); err == nil {
		for _, p := range t.Partitions {
			if p.Type != gpt.Unused {
				holds = append(holds, fmt.Sprintf("partition %q, %d MiB", p.Name, p.Size/mib))
			}
		}
		return holds
	}
	first := make([]byte, 64<<10)
	if n, err := b.ReadAt(first, 0); err == nil && strings.Trim(string(first[:n]), "\x00") != "" {
		holds = append(holds, "data without a GUID partition table")
	}
	return holds
}

// usersOf returns what uses the disk or one of its partitions: mounts, swap, device mapper or RAID, loop devices.
func usersOf(path, name string) (users []string, err error) {
	numbers, paths := map[string]string{}, map[string]bool{path: true}
	dirs, err := filepath.Glob(filepath.Join("/sys/class/block", name, "*", "partition"))
	if err != nil {
		return nil, err
	}
	all := []string{filepath.Join("/sys/class/block", name)}
	for _, partition := range dirs {
		all = append(all, filepath.Dir(partition))
	}
	for _, dir := range all {
		number, err := os.ReadFile(filepath.Join(dir, "dev"))
		if err != nil {
			return nil, err
		}
		numbers[strings.TrimSpace(string(number))] = filepath.Base(dir)
		paths["/dev/"+filepath.Base(dir)] = true
		holders, err := os.ReadDir(filepath.Join(dir, "holders"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, holder := range holders {
			users = append(users, filepath.Base(dir)+" is part of "+holder.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && numbers[f[2]] != "" {
			users = append(users, numbers[f[2]]+" is mounted on "+f[4])
			numbers[f[2]] = "" // one of its mounts is enough to say
		}
	}
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(swaps)) {
		if f := strings.Fields(line); len(f) > 0 && paths[f[0]] {
			users = append(users, f[0]+" is swap")
		}
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, loop := range loops {
		backing, err := os.ReadFile(loop)
		if err == nil && paths[strings.TrimSpace(string(backing))] { // a device that goes away meanwhile uses nothing
			users = append(users, strings.TrimSpace(string(backing))+" is behind "+strings.Split(loop, "/")[3])
		}
	}
	return users, nil
}
