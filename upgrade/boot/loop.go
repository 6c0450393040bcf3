package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mountLoop mounts the image file read-only. The loop device detaches itself with the last mount.
func mountLoop(file, target string) error {
	image, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open the image: %w", err)
	}
	defer image.Close()
	fstype, err := imageType(image)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	loop, err := attachLoop(image)
	if err != nil {
		return fmt.Errorf("loop %s: %w", file, err)
	}
	defer loop.Close() // not before the mount: an autoclear device without user is gone
	return mount(loop.Name(), target, fstype, "ro")
}

// attachLoop takes a free loop device; another process may take it first, then the next is tried.
func attachLoop(image *os.File) (*os.File, error) {
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
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
		if errors.Is(err, unix.ENXIO) {
			continue // it was taken, and is just being let go
		}
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(image.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}}
		copy(config.Info.File_name[:len(config.Info.File_name)-1], image.Name())
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("configure %s: %w", loop.Name(), err)
		}
	}
	return nil, errors.New("every loop device that was free was taken by another")
}
