package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/muster-edge/muster/upgrade/grub"
	"github.com/muster-edge/muster/upgrade/image"
)

// RequestReset makes the next boot start recovery to wipe COS_PERSISTENT. ErrRefused: there is no recovery to start.
func (m *Machine) RequestReset(o Options) error {
	err := m.locked(func() error {
		if _, err := m.Booted(); err != nil {
			return err
		}
		err := withVolume(m.RecoveryDevice, func(v volume) error {
			_, err := ReadSlot(v.path(Recovery))
			return err
		})
		if err != nil {
			return fmt.Errorf("%w: recovery cannot be read: %w", ErrRefused, err)
		}
		return m.nextEntry(grub.EntryStateReset, o)
	})
	if err != nil {
		return fmt.Errorf("ask for a reset: %w", err)
	}
	return nil
}

// Reset wipes COS_PERSISTENT, keeps COS_OEM, and writes active anew from recovery when it is damaged or was given up. It
// runs in recovery, started for a reset (ErrRefused elsewhere); the caller restarts the machine. A cut at any step starts
// it again; a failure does not.
func (m *Machine) Reset(ctx context.Context, o Options) error {
	err := m.locked(func() error {
		boot, err := m.Booted()
		if err != nil {
			return err
		}
		if boot.Slot != Recovery || !boot.Reset {
			return fmt.Errorf("%w: only recovery, started for it, resets the machine", ErrRefused)
		}
		if _, err := m.environment(boot, o); err != nil {
			return err
		}
		// GRUB cleared it before this boot; until the work is done every boot comes back here.
		if err := m.nextEntry(grub.EntryStateReset, o); err != nil {
			return err
		}
		err = m.reset(ctx, o)
		return errors.Join(err, m.nextEntry("", o))
	})
	if err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	return nil
}

func (m *Machine) reset(ctx context.Context, o Options) error {
	if err := m.restoreActive(ctx, o); err != nil {
		return fmt.Errorf("write active from recovery: %w", err)
	}
	// mkfs refuses a device that is mounted.
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-b", "4096", "-L", LabelPersistent, m.PersistentDevice); err != nil {
		return fmt.Errorf("make %s: %w", LabelPersistent, err)
	}
	o.step("make persistent")
	if err := syncPath(m.PersistentDevice); err != nil {
		return fmt.Errorf("make %s: %w", LabelPersistent, err)
	}
	o.step("sync persistent")
	return nil
}

// restoreActive writes active from recovery unless it is whole and GRUB would start it.
func (m *Machine) restoreActive(ctx context.Context, o Options) error {
	env, err := grub.ReadEnv(m.envPath())
	if err != nil {
		return err
	}
	return withVolume(m.StateDevice, func(v volume) error {
		id, err := ReadSlot(v.path(Active))
		if err == nil {
			err = VerifySlot(ctx, v.path(Active))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		givenUp := env.Active.ID == id.ID && env.Active.Tries >= env.MaxTries
		if err == nil && !givenUp {
			return nil
		}
		return withVolume(m.RecoveryDevice, func(from volume) error {
			to, err := ReadSlot(from.path(Recovery))
			if err != nil {
				return err
			}
			return v.writable(ctx, func() error {
				if err := m.copySlot(ctx, from.path(Recovery), v, o); err != nil {
					return errors.Join(err, removeIfThere(v.path(transitionSlot)))
				}
				after := env
				if after.Active.ID == to.ID {
					after.Active = grub.Trial{}
				}
				after.NextEntry = grub.EntryStateReset // as it was written a moment ago
				if err := m.writeEnv(env, after, o.step); err != nil {
					return err
				}
				return m.swap(ctx, v, Active, false, o)
			})
		})
	})
}

// copySlot makes a transition of a slot file.
func (m *Machine) copySlot(ctx context.Context, from string, v volume, o Options) (err error) {
	path := v.path(transitionSlot)
	if err := removeIfThere(path); err != nil {
		return err
	}
	o.step("remove stale transition")
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close() // only read
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if err := allocate(path, info.Size()); err != nil {
		return err
	}
	target, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for done := int64(0); done < info.Size() && err == nil && ctx.Err() == nil; {
		var n int64
		n, err = io.CopyN(target, source, min(4*mib, info.Size()-done))
		done += n
		if o.Progress != nil {
			o.Progress(image.Progress{Step: "copy recovery", Done: done, Total: info.Size()})
		}
		o.step("write chunk")
	}
	if err = errors.Join(err, ctx.Err(), target.Sync(), target.Close()); err != nil {
		return err
	}
	o.step("sync slot")
	if err := VerifySlot(ctx, path); err != nil {
		return err
	}
	if err := syncPath(filepath.Dir(path)); err != nil {
		return err
	}
	if err := v.checkpoint(ctx); err != nil {
		return err
	}
	o.step("transition complete")
	return nil
}

func (m *Machine) nextEntry(entry string, o Options) error {
	env, err := grub.ReadEnv(m.envPath())
	if err != nil {
		return err
	}
	after := env
	after.NextEntry = entry
	return m.writeEnv(env, after, o.step)
}
