package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/upgrade"
	"github.com/muster-edge/muster/upgrade/grub"
	"github.com/muster-edge/muster/upgrade/image"
)

// menuTimeout is how many seconds the boot menu waits for a key.
const menuTimeout = 2

// Firmware is what starts the machine.
type Firmware string

// What a disk can be started by.
const (
	FirmwareBIOS Firmware = "bios"
	FirmwareUEFI Firmware = "uefi"
	FirmwareBoth Firmware = "both"
)

// ErrFirmware says that there is no such firmware.
var ErrFirmware = errors.New("unknown firmware")

// ParseFirmware reads bios, uefi or both.
func ParseFirmware(s string) (Firmware, error) {
	switch f := Firmware(s); f {
	case FirmwareBIOS, FirmwareUEFI, FirmwareBoth:
		return f, nil
	}
	return "", fmt.Errorf("%w %q: use bios, uefi or both", ErrFirmware, s)
}

// Progress is how far the work is. Done and Total are bytes of the step; Total is 0 while nobody knows.
type Progress struct {
	Step        string
	Done, Total int64
	Elapsed     time.Duration // since the start
}

// writer makes the disk of docs/OS.md on a file or device.
type writer struct {
	disk     string
	size     int64
	parts    []Partition
	image    upgrade.Image
	config   []byte
	extra    string
	firmware Firmware
	step     func(string)
	progress func(string, int64, int64)
}

// loaders is GRUB as it lies in the image.
type loaders struct{ boot, core, efi []byte }

func (w *writer) write(ctx context.Context) error {
	if err := w.forget(); err != nil {
		return err
	}
	w.step("forgotten")
	var l loaders
	steps := []struct {
		name string
		do   func() error
	}{
		{"oem", func() error { return makeFilesystem(ctx, w.disk, w.parts[partOEM], w.fillOEM) }},
		{"slots", func() (err error) { l, err = w.slots(ctx); return err }},
		{"persistent", func() error { return makeFilesystem(ctx, w.disk, w.parts[partPersistent], nil) }},
		{"esp", func() error { return makeESP(w.disk, w.parts[partEFI], l.efi) }},
		{"table", w.table},
		{"boot sector", func() error { return w.bootSector(l) }},
	}
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		w.progress(s.name, 0, 0)
		if err := s.do(); err != nil {
			return err
		}
		w.step(s.name)
	}
	return nil
}

// forget takes the partition tables and the boot sector away, so that nothing of what was there boots any more.
func (w *writer) forget() error {
	return w.update("clear the partition table", func(f *os.File) error {
		blank := make([]byte, mib)
		for _, at := range []int64{0, w.size - mib} {
			if _, err := f.WriteAt(blank, at); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *writer) fillOEM(dir string) error {
	if w.config != nil {
		if err := os.WriteFile(filepath.Join(dir, "90_custom.yaml"), w.config, 0o600); err != nil {
			return fmt.Errorf("write cloud-config: %w", err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "muster"), 0o700); err != nil {
		return err
	}
	return grub.CreateEnv(filepath.Join(dir, "grubenv"), grub.Env{ExtraCmdline: w.extra})
}

// slots makes active from the image, and passive and recovery as copies of it.
func (w *writer) slots(ctx context.Context) (l loaders, err error) {
	state, recovery := w.parts[partState], w.parts[partRecovery]
	err = makeFilesystem(ctx, w.disk, state, func(dir string) error {
		active := filepath.Join(dir, upgrade.SlotFile(upgrade.Active))
		for _, made := range []string{"grub2", upgrade.SlotDir} {
			if err := os.Mkdir(filepath.Join(dir, made), 0o755); err != nil {
				return err
			}
		}
		err := upgrade.WriteSlot(ctx, w.image, active, upgrade.SlotOptions{
			Check:    image.Check,
			Progress: func(p image.Progress) { w.progress(p.Step, p.Done, p.Total) },
		})
		if err != nil {
			return err
		}
		if l, err = w.loaders(ctx, active); err != nil {
			return err
		}
		w.progress("passive", 0, 0)
		if err := copySparse(ctx, active, filepath.Join(dir, upgrade.SlotFile(upgrade.Passive))); err != nil {
			return err
		}
		w.progress("recovery", 0, 0)
		err = makeFilesystem(ctx, w.disk, recovery, func(dir string) error {
			if err := os.Mkdir(filepath.Join(dir, upgrade.SlotDir), 0o755); err != nil {
				return err
			}
			return copySparse(ctx, active, filepath.Join(dir, upgrade.SlotFile(upgrade.Recovery)))
		})
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "grub2", "grub.cfg"), grub.Config(grub.Options{Timeout: menuTimeout}), 0o644)
	})
	return l, err
}

// loaders reads the boot loader out of the slot.
func (w *writer) loaders(ctx context.Context, slot string) (l loaders, err error) {
	info, err := os.Stat(slot)
	if err != nil {
		return l, err
	}
	err = withLoop(ctx, slot, Partition{Name: filepath.Base(slot), Size: info.Size()}, func(device string) error {
		return withMount(device, func(tree string) (err error) {
			l, err = readLoaders(tree, w.firmware)
			return err
		}, unix.MS_RDONLY)
	})
	return l, err
}

// copySparse copies a file, its holes as holes.
func copySparse(ctx context.Context, from, to string) error {
	if _, err := run(ctx, "cp", "--sparse=always", from, to); err != nil {
		return fmt.Errorf("copy %s to %s: %w", filepath.Base(from), filepath.Base(to), err)
	}
	return nil
}

func readLoaders(tree string, firmware Firmware) (l loaders, err error) {
	dir := filepath.Join(tree, "usr/lib/muster/grub")
	if firmware != FirmwareUEFI {
		l.boot, err = os.ReadFile(filepath.Join(dir, "boot.img"))
		if err == nil {
			l.core, err = os.ReadFile(filepath.Join(dir, "core.img"))
		}
	}
	if err == nil && firmware != FirmwareBIOS {
		l.efi, err = os.ReadFile(filepath.Join(dir, "BOOTX64.EFI"))
	}
	if err != nil {
		return l, fmt.Errorf("the image has no boot loader for %s: %w", firmware, err)
	}
	return l, nil
}

func (w *writer) table() error {
	return w.update("write partition table", func(f *os.File) error {
		writable, err := file.New(f, false).Writable()
		if err != nil {
			return err
		}
		return table(w.parts).Write(writable, w.size)
	})
}

func (w *writer) bootSector(l loaders) error {
	if l.boot == nil {
		return nil
	}
	p := w.parts[partBIOS]
	return w.update("write boot loader", func(f *os.File) error {
		return grub.InstallBIOS(f, l.boot, l.core, uint64(p.Start/sectorSize), uint64(p.Size/sectorSize))
	})
}

// update opens the disk for do and syncs it.
func (w *writer) update(what string, do func(*os.File) error) error {
	f, err := os.OpenFile(w.disk, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	err = do(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
