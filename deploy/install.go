package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/upgrade"
	"github.com/muster-edge/muster/upgrade/image"
)

// ErrDeclined says that nobody confirmed the plan. Nothing was changed.
var ErrDeclined = errors.New("not confirmed")

// Plan is what Install will do.
type Plan struct {
	Device     Device
	Identity   image.Identity
	Partitions []Partition
}

// InstallOptions say what Install puts where.
type InstallOptions struct {
	Device   string // a whole disk
	Image    string // reference (image.Parse)
	Options  image.Options
	Config   []byte // as in DiskOptions
	Firmware Firmware
	Extra    string // appended to every kernel command line
	Progress func(Progress)
	// Confirm is shown the plan before anything is changed; false ends with ErrDeclined.
	Confirm func(Plan) (bool, error)
	// Step is told each step that is done and on the disk; tests cut the power there.
	Step func(name string)
}

// Install makes the disk of a running machine bootable, over whatever was on it. A disk in use is refused (ErrInUse) before anything
// is fetched. When it is cut off, the disk boots nothing and Install can be called again.
func Install(ctx context.Context, o InstallOptions) (Result, error) {
	if _, err := ParseFirmware(string(o.Firmware)); err != nil {
		return Result{}, err
	}
	src, err := image.Parse(o.Image)
	if err != nil {
		return Result{}, err
	}
	if _, err := inspect(o.Device); err != nil {
		return Result{}, fmt.Errorf("install: %w", err)
	}
	opened, err := src.Open(ctx, o.Options)
	if err != nil {
		return Result{}, err
	}
	result, err := install(ctx, o, opened)
	return result, errors.Join(err, opened.Close())
}

func install(ctx context.Context, o InstallOptions, img upgrade.Image) (r Result, err error) {
	device, err := inspect(o.Device)
	if err != nil {
		return r, fmt.Errorf("install: %w", err)
	}
	if err := img.Pull(ctx); err != nil {
		return r, fmt.Errorf("install on %s: %w", device.Path, err)
	}
	r = Result{Identity: img.Identity(), Size: device.Size}
	if r.Partitions, err = layOut(device.Size, img.Bytes()); err != nil {
		return r, fmt.Errorf("install on %s: %w", device.Path, err)
	}
	ok, err := o.Confirm(Plan{device, r.Identity, r.Partitions})
	if err != nil {
		return r, fmt.Errorf("install on %s: %w", device.Path, err)
	}
	if !ok {
		return r, fmt.Errorf("install on %s: %w; nothing was changed", device.Path, ErrDeclined)
	}
	// The kernel's own word on whether the disk is used, and it keeps others from mounting it until the end.
	claim, err := os.OpenFile(device.Path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w: the kernel says so", ErrInUse)
	}
	if err != nil {
		return r, fmt.Errorf("install on %s: %w", device.Path, err)
	}
	err = newWriter(device.Path, r, img, o.Config, o.Extra, o.Firmware, o.Step, o.Progress).write(ctx)
	if err == nil {
		// Best effort: the machine restarts from the new disk anyhow, and some kernels know no partitions.
		_ = unix.IoctlSetInt(int(claim.Fd()), unix.BLKRRPART, 0)
	}
	if err = errors.Join(err, claim.Close()); err != nil {
		return r, fmt.Errorf("install on %s: %w", device.Path, err)
	}
	return r, nil
}
