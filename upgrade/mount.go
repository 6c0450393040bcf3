package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// volume is a mounted file system.
type volume struct {
	device, dir string
}

// withVolume mounts the device, calls do and takes the mount away. A device that is mounted read-only elsewhere stays so there.
func withVolume(device, place string, do func(volume) error) (err error) {
	dir, err := os.MkdirTemp(place, ours(kindVolume))
	if err != nil {
		return fmt.Errorf("make a place to mount %s: %w", device, err)
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	// Read-only first: the kernel refuses a second mount that disagrees with the first, and a remount changes both.
	err = unix.Mount(device, dir, "ext4", unix.MS_RDONLY, "")
	if errors.Is(err, unix.EBUSY) { // it is writable elsewhere, for an upgrade or by hand
		err = unix.Mount(device, dir, "ext4", 0, "")
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	v := volume{device, dir}
	defer func() {
		if left := unmount(dir); left != nil {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", device, left))
		}
	}()
	return do(v)
}

// Mount points are named KIND-PID-RANDOM: those of a process that was killed can be told.
const (
	kindVolume = "mount"
	kindSlot   = "slot"
)

func ours(kind string) string { return fmt.Sprintf("%s-%d-", kind, os.Getpid()) }

// sweep takes away the mounts of processes that were killed. They would keep a file system writable, and the space of the transition
// that was being written in use.
func sweep(place string) {
	for _, kind := range []string{kindSlot, kindVolume} { // a slot lies on a volume
		dirs, err := filepath.Glob(filepath.Join(place, kind+"-*-*"))
		if err != nil {
			continue // the pattern is a constant
		}
		for _, dir := range dirs {
			pid, err := strconv.Atoi(strings.Split(filepath.Base(dir), "-")[1])
			if err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
				continue
			}
			// What cannot be taken away is in the way of what comes next, which says so.
			_ = unmount(dir)
			_ = os.Remove(dir)
		}
	}
}

// writable lets do write. Afterwards the file system is read-only and its journal written back.
func (v volume) writable(ctx context.Context, do func() error) (err error) {
	if err := unix.Mount("", v.dir, "", unix.MS_REMOUNT, ""); err != nil {
		return fmt.Errorf("make %s writable: %w", v.device, err)
	}
	defer func() { err = errors.Join(err, v.settle(ctx)) }()
	return do()
}

// settle writes everything to its place, and makes the file system read-only.
func (v volume) settle(ctx context.Context) error {
	if err := syncFS(v.dir); err != nil {
		return fmt.Errorf("sync %s: %w", v.device, err)
	}
	err := whileBusy(ctx, func() error { return unix.Mount("", v.dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "") })
	if err != nil {
		return fmt.Errorf("make %s read-only: %w", v.device, err)
	}
	return nil
}

func unmount(dir string) error {
	return whileBusy(context.Background(), func() error { return unix.Unmount(dir, 0) })
}

// whileBusy tries again for some seconds. The kernel lets go of a loop device's file shortly after its unmount, and a
// process that another goroutine starts holds this one's open files until it has become its program. An interrupt is no
// reason to leave a mount behind.
func whileBusy(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := do()
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// checkpoint is settle, and writable again: what was written is where GRUB looks for it.
func (v volume) checkpoint(ctx context.Context) error {
	if err := v.settle(ctx); err != nil {
		return err
	}
	if err := unix.Mount("", v.dir, "", unix.MS_REMOUNT, ""); err != nil {
		return fmt.Errorf("make %s writable: %w", v.device, err)
	}
	return nil
}

// withSlot mounts the slot file through a loop device for as long as do runs.
func withSlot(path, place string, writable bool, do func(dir string) error) (err error) {
	mode, loopFlags, mountFlags, options := os.O_RDONLY, uint32(unix.LO_FLAGS_READ_ONLY), uintptr(unix.MS_RDONLY), ""
	if writable {
		// The background task that clears inode tables would write after the hashes were taken.
		mode, loopFlags, mountFlags, options = os.O_RDWR, 0, 0, "noinit_itable"
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	loop, err := attach(f, mode, loopFlags)
	if err != nil {
		return fmt.Errorf("loop %s: %w", path, err)
	}
	defer func() {
		// Detached while it is open: then it is detached now, not whenever its last user closes it.
		_ = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0) // autoclear does it otherwise
		err = errors.Join(err, loop.Close())
	}()
	dir, err := os.MkdirTemp(place, ours(kindSlot))
	if err != nil {
		return fmt.Errorf("make a place to mount %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := unix.Mount(loop.Name(), dir, "ext4", mountFlags, options); err != nil {
		return fmt.Errorf("mount %s: %w: %w", path, ErrDamaged, err)
	}
	defer func() {
		if writable {
			err = errors.Join(err, syncFS(dir))
		}
		if left := unmount(dir); left != nil {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", path, left))
		}
		if writable {
			err = errors.Join(err, loop.Sync())
		}
	}()
	return do(dir)
}

// attach gives the file a loop device; another process may take a free one first, then the next is tried.
func attach(f *os.File, mode int, flags uint32) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 16 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), mode, 0)
		if errors.Is(err, unix.ENXIO) {
			continue // it was taken, and is just being let go
		}
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: flags | unix.LO_FLAGS_AUTOCLEAR}}
		copy(config.Info.File_name[:len(config.Info.File_name)-1], f.Name())
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		_ = loop.Close() // only opened
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("configure %s: %w", loop.Name(), err)
		}
	}
	return nil, errors.New("every loop device that was free was taken by another")
}

func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// run runs a tool; what it complained is in the error.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
}
