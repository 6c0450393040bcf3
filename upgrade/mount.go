package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// volume is a mounted file system.
type volume struct {
	device string
	mount  int // file descriptor
}

// mount makes a mount of an ext4 file system that is in no mount table: what is open in this process leads to it, and it ends with the
// process, however that ends. systemd, which looks at every change of the table, has nothing to do. The options are flags of mount(8).
func mount(device string, options ...string) (v volume, err error) {
	fs, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return volume{}, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", device); err != nil {
		return volume{}, err
	}
	for _, option := range options {
		if err := unix.FsconfigSetFlag(fs, option); err != nil {
			return volume{}, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return volume{}, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	return volume{device, fd}, err
}

// dir is the path of the mount, for this process and those that it starts. Its last element is a directory, not a link.
func (v volume) dir() string { return fmt.Sprintf("/proc/%d/fd/%d/.", os.Getpid(), v.mount) }

func (v volume) unmount() error { return unix.Close(v.mount) }

// reconfigure changes an option of the file system, as mount(8) with -o remount does.
func (v volume) reconfigure(option string) error {
	fs, err := unix.Fspick(v.mount, "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetFlag(fs, option); err != nil {
		return err
	}
	return unix.FsconfigReconfigure(fs)
}

// withVolume mounts the device, calls do and takes the mount away. A device that is mounted read-only elsewhere stays so there.
func withVolume(device string, do func(volume) error) (err error) {
	// Read-only first: the kernel refuses a second mount that disagrees with the first, and a remount changes both.
	v, err := mount(device, "ro")
	if errors.Is(err, unix.EBUSY) { // it is writable elsewhere, for an upgrade or by hand
		v, err = mount(device)
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	defer func() { err = errors.Join(err, v.unmount()) }()
	return do(v)
}

// writable lets do write. Afterwards the file system is read-only and its journal written back.
func (v volume) writable(ctx context.Context, do func() error) (err error) {
	if err := v.reconfigure("rw"); err != nil {
		return fmt.Errorf("make %s writable: %w", v.device, err)
	}
	defer func() { err = errors.Join(err, v.settle(ctx)) }()
	return do()
}

// settle writes everything to its place, and makes the file system read-only.
func (v volume) settle(ctx context.Context) error {
	if err := syncFS(v.dir()); err != nil {
		return fmt.Errorf("sync %s: %w", v.device, err)
	}
	if err := whileBusy(ctx, func() error { return v.reconfigure("ro") }); err != nil {
		return fmt.Errorf("make %s read-only: %w", v.device, err)
	}
	return nil
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
	if err := v.reconfigure("rw"); err != nil {
		return fmt.Errorf("make %s writable: %w", v.device, err)
	}
	return nil
}

// withSlot mounts the slot file through a loop device for as long as do runs.
func withSlot(path string, writable bool, do func(dir string) error) (err error) {
	mode, flags, option := os.O_RDONLY, uint32(unix.LO_FLAGS_READ_ONLY), "ro"
	if writable {
		// The background task that clears inode tables would write after the hashes were taken.
		mode, flags, option = os.O_RDWR, 0, "noinit_itable"
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	loop, err := attach(f, mode, flags)
	if err != nil {
		return fmt.Errorf("loop %s: %w", path, err)
	}
	defer func() {
		// Detached while it is open: then it is detached now, not whenever its last user closes it.
		_ = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0) // autoclear does it otherwise
		err = errors.Join(err, loop.Close())
	}()
	v, err := mount(loop.Name(), option)
	if err != nil {
		return fmt.Errorf("mount %s: %w: %w", path, ErrDamaged, err)
	}
	defer func() {
		if writable {
			// What is read-only is not written when its mount ends, which may be later: a process that another goroutine starts holds it
			// until it has become its program.
			err = errors.Join(err, v.settle(context.Background()))
		}
		err = errors.Join(err, v.unmount())
		if writable {
			err = errors.Join(err, loop.Sync())
		}
	}()
	return do(v.dir())
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
