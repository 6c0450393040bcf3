package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/muster-edge/muster/upgrade"
	"github.com/muster-edge/muster/upgrade/image"
)

// DiskOptions say which disk image Disk makes.
type DiskOptions struct {
	Image    string // reference (image.Parse)
	Options  image.Options
	Config   []byte // cloud-config, checked by the caller; becomes /oem/90_custom.yaml. Nil: none
	Out      string // raw disk image; replaced when it is complete
	Firmware Firmware
	Size     int64  // bytes; 0 is the smallest that holds the image
	Extra    string // appended to every kernel command line
	Progress func(Progress)
}

// Result is what was made.
type Result struct {
	Identity   image.Identity
	Partitions []Partition
	Size       int64 // bytes
}

// Disk makes a bootable disk image. It needs root, for loop devices and mounts. What it makes is OUT.partial until it is complete;
// when it fails, or ctx ends, nothing of it is left and Out is what it was before.
func Disk(ctx context.Context, o DiskOptions) (Result, error) {
	src, err := image.Parse(o.Image)
	if err != nil {
		return Result{}, err
	}
	if _, err := ParseFirmware(string(o.Firmware)); err != nil {
		return Result{}, err
	}
	opened, err := src.Open(ctx, o.Options)
	if err != nil {
		return Result{}, err
	}
	result, err := makeDisk(ctx, o, opened, nil)
	return result, errors.Join(err, opened.Close())
}

func makeDisk(ctx context.Context, o DiskOptions, img upgrade.Image, step func(string)) (r Result, err error) {
	if err := img.Pull(ctx); err != nil {
		return r, fmt.Errorf("make disk %s: %w", o.Out, err)
	}
	r = Result{Identity: img.Identity(), Size: o.Size}
	if r.Size == 0 {
		r.Size = smallestDisk(img.Bytes())
	}
	r.Size = r.Size / mib * mib
	if r.Partitions, err = layOut(r.Size, img.Bytes()); err != nil {
		return r, fmt.Errorf("make disk %s: %w", o.Out, err)
	}
	partial := o.Out + ".partial"
	if err := sparseFile(partial, r.Size); err != nil {
		return r, fmt.Errorf("make disk %s: %w", o.Out, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("make disk %s: %w", o.Out, errors.Join(err, os.Remove(partial)))
		}
	}()
	w := newWriter(partial, r, img, o.Config, o.Extra, o.Firmware, step, o.Progress)
	if err := w.write(ctx); err != nil {
		return r, err
	}
	if err := os.Rename(partial, o.Out); err != nil {
		return r, err
	}
	return r, syncDir(filepath.Dir(o.Out))
}

func newWriter(disk string, r Result, img upgrade.Image, config []byte, extra string, firmware Firmware, step func(string), progress func(Progress)) *writer {
	if step == nil {
		step = func(string) {}
	}
	start := time.Now()
	return &writer{
		disk: disk, size: r.Size, parts: r.Partitions, image: img, config: config, extra: extra, firmware: firmware, step: step,
		progress: func(name string, done, total int64) {
			if progress != nil {
				progress(Progress{name, done, total, time.Since(start)})
			}
		},
	}
}

// sparseFile makes an empty file of that size; one that an earlier run left behind when it was killed is replaced.
func sparseFile(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
