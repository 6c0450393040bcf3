package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"golang.org/x/sys/unix"
)

// run runs a tool and returns what it printed.
func run(ctx context.Context, name string, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(complaint.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// withLoop calls do with a block device that is the partition of the disk. The device is gone when it returns, whatever
// happened.
func withLoop(ctx context.Context, disk string, p Partition, do func(device string) error) (err error) {
	device, err := run(ctx, "losetup", "-f", "--show", "-o", strconv.FormatInt(p.Start, 10), "--sizelimit", strconv.FormatInt(p.Size, 10), disk)
	if err != nil {
		return fmt.Errorf("attach partition %s: %w", p.Name, err)
	}
	defer func() {
		// Not the caller's context: what was attached is detached after an interrupt, too.
		if _, detach := run(context.WithoutCancel(ctx), "losetup", "-d", device); detach != nil {
			err = errors.Join(err, fmt.Errorf("detach partition %s: %w", p.Name, detach))
		}
	}()
	return do(device)
}

// blockSize in bytes is mkfs's own choice for a large partition. One that is made small and grown to a large disk needs it,
// too: with blocks of 1024 bytes growing to 200 GB takes most of a minute.
const blockSize = "4096"

// makeFilesystem makes an ext4 and, when fill is not nil, fills it. All of it is on the disk when it returns.
func makeFilesystem(ctx context.Context, disk string, p Partition, fill func(dir string) error) error {
	err := withLoop(ctx, disk, p, func(device string) error {
		if _, err := run(ctx, "mkfs.ext4", "-q", "-F", "-b", blockSize, "-L", p.Label, device); err != nil {
			return err
		}
		if fill != nil {
			if err := withMount(device, fill, 0); err != nil {
				return err
			}
		}
		return syncDevice(device)
	})
	if err != nil {
		return fmt.Errorf("make %s: %w", p.Label, err)
	}
	return nil
}

// withMount mounts the device for as long as do runs.
func withMount(device string, do func(dir string) error, flags uintptr) (err error) {
	dir, err := os.MkdirTemp("", "muster-deploy-")
	if err != nil {
		return fmt.Errorf("make a place to mount: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := unix.Mount(device, dir, "ext4", flags, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	defer func() {
		if left := unmount(dir); left != nil {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", device, left))
		}
	}()
	return do(dir)
}

// unmount tries again for some seconds while the mount is busy: the kernel lets go of a slot file shortly after its own
// unmount, and other programs look at new mounts. An interrupt is no reason to leave a mount behind.
func unmount(dir string) error {
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Unmount(dir, 0)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-late.C:
			return err
		case <-tick.C:
		}
	}
}

func syncDevice(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// makeESP makes the FAT32 of the EFI system partition; loader is BOOTX64.EFI, nil for a disk that starts by BIOS only.
func makeESP(disk string, p Partition, loader []byte) error {
	// Not opened by go-diskfs, which would claim the disk for itself.
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("make %s: %w", p.Label, err)
	}
	err = fillESP(f, p, loader)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("make %s: %w", p.Label, err)
	}
	return nil
}

func fillESP(f *os.File, p Partition, loader []byte) error {
	fs, err := fat32.Create(file.New(f, false), p.Size, p.Start, sectorSize, p.Label)
	if err != nil {
		return err
	}
	if loader != nil {
		if err := fs.Mkdir("/EFI/BOOT"); err != nil {
			return err
		}
		w, err := fs.OpenFile("/EFI/BOOT/BOOTX64.EFI", os.O_CREATE|os.O_RDWR)
		if err != nil {
			return err
		}
		if _, err := io.Copy(w, bytes.NewReader(loader)); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	return f.Sync()
}
