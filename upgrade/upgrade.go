package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/upgrade/grub"
	"github.com/muster-edge/muster/upgrade/image"
)

// Options of an operation.
type Options struct {
	Source   string // what people call the image, for the story
	Recovery bool   // replace recovery and not active
	Force    bool   // what policy refuses and force may do
	Progress func(image.Progress)
	Step     func(name string) // called after every durable step
}

func (o *Options) step(name string) {
	if o.Step != nil {
		o.Step(name)
	}
}

// Result of an upgrade.
type Result struct {
	Slot      string `json:"slot"`
	ID        string `json:"id"`
	Version   string `json:"version"`
	Unchanged bool   `json:"unchanged"` // the slot held this image already
}

// Upgrade puts the image into the active slot, or into recovery. The next boot tries it. When it fails, or ctx ends, the
// machine is as it was.
//
// Errors are ErrBusy, ErrRefused (the running slot is on trial; the image is quarantined or fell back), ErrNoSpace,
// ErrContract, ErrDamaged, ErrNotBooted, and those of packages image and grub.
func (m *Machine) Upgrade(ctx context.Context, img Image, o Options) (res Result, err error) {
	err = m.locked(func() error {
		res, err = m.upgrade(ctx, img, o)
		return err
	})
	if err != nil {
		return Result{}, fmt.Errorf("upgrade to %s: %w", name(img.Identity()), err)
	}
	return res, nil
}

func (m *Machine) upgrade(ctx context.Context, img Image, o Options) (Result, error) {
	target, device := Active, m.StateDevice
	if o.Recovery {
		target, device = Recovery, m.RecoveryDevice
	}
	boot, err := m.Booted()
	if err != nil {
		return Result{}, err
	}
	env, err := m.environment(boot, o)
	if err != nil {
		return Result{}, err
	}
	rec, err := m.readRecord()
	if err != nil {
		return Result{}, err
	}
	to := img.Identity()
	if err := m.allowed(boot, env, rec, to.ID, o); err != nil {
		return Result{}, err
	}
	res := Result{Slot: target, ID: to.ID, Version: to.Version}
	err = withVolume(device, func(v volume) error {
		was, unreadable := ReadSlot(v.path(target))
		if unreadable == nil && was.ID == to.ID {
			if target == Active && env.Active.ID == to.ID && env.Active.Tries > 0 && !slices.Contains(env.Good, to.ID) && !o.Force {
				return fmt.Errorf("%w: this image was tried %d times and did not prove good, or was rolled back; --force tries again", ErrRefused, env.Active.Tries)
			}
			if VerifySlot(ctx, v.path(target)) == nil && !o.Force {
				res.Unchanged = true
				return nil
			}
		}
		// A cut left it, or a rename that GRUB does not see yet: nothing is known of it.
		return v.writable(ctx, func() error {
			if err := m.build(ctx, v, img, o); err != nil {
				return err
			}
			to = img.Identity() // the version of some is known only now
			res.Version = to.Version
			var err error
			if target == Active {
				rec.LastUpgrade = &Story{
					Source: o.Source, Slot: target, From: was.ID, To: to.ID, Version: to.Version, Started: time.Now().UTC(), Outcome: OutcomeStarted,
				}
				err = m.announce(env, rec, to.ID, boot, o)
			}
			if err == nil {
				err = m.swap(ctx, v, target, target == Active && m.keeps(ctx, v, boot, env, was.ID), o)
			}
			if err != nil {
				return errors.Join(err, removeIfThere(v.path(transitionSlot)))
			}
			return nil
		})
	})
	return res, err
}

// allowed says why the policy refuses an upgrade, with ErrRefused.
func (m *Machine) allowed(boot Boot, env grub.Env, rec record, id string, o Options) error {
	switch {
	case boot.Slot != Recovery && !slices.Contains(env.Good, boot.Image):
		// Not even with force: the slot that would be overwritten is the only one that is known to be good.
		return fmt.Errorf("%w: the running image is on trial; it must prove good first (`muster why` says what it waits for)", ErrRefused)
	case o.Recovery && boot.Slot == Recovery:
		return fmt.Errorf("%w: recovery runs; start active or passive to replace it", ErrRefused)
	}
	if q := rec.quarantined(id, m.Model); q != nil && !o.Force {
		return fmt.Errorf("%w: the image is quarantined on this hardware since %s: %s; `muster upgrade unquarantine %s` or --force",
			ErrRefused, q.Since.Format(time.DateOnly), q.Reason, id)
	}
	return nil
}

// build makes transition.img, complete and on the disk where GRUB looks for it.
func (m *Machine) build(ctx context.Context, v volume, img Image, o Options) error {
	path := v.path(transitionSlot)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := removeIfThere(path); err != nil {
		return fmt.Errorf("remove what an interrupted upgrade left: %w", err)
	}
	o.step("remove stale transition")
	if err := img.Pull(ctx); err != nil {
		return err
	}
	size := m.sizeOf(img.Bytes())
	var fs unix.Statfs_t
	if err := unix.Statfs(v.dir(), &fs); err != nil {
		return fmt.Errorf("look for space: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < size {
		return fmt.Errorf("%w on %s: the image of %d MiB needs a slot of %d MiB, %d MiB are free",
			ErrNoSpace, v.device, roundUp(img.Bytes(), mib)/mib, size/mib, free/mib)
	}
	err := WriteSlot(ctx, img, path, SlotOptions{Size: size, Check: m.check, Progress: o.Progress, Step: o.Step})
	if err == nil {
		err = syncPath(filepath.Dir(path))
	}
	if err == nil {
		// GRUB reads no journal: were the new name in place before what it names, GRUB would read blocks of something else.
		err = v.checkpoint(ctx)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(path))
	}
	o.step("transition complete")
	return nil
}

// announce writes what must be known before the swap; it fails, with nothing changed, when COS_OEM is full.
func (m *Machine) announce(env grub.Env, rec record, id string, boot Boot, o Options) error {
	rec.FallbackReason = ""
	if err := m.writeRecord(rec, o.step); err != nil {
		return err
	}
	after := env
	after.NextEntry, after.FellBack = "", ""
	if i := slices.Index(env.Good, boot.Image); i > 0 {
		// It becomes the image to fall back to, and as the oldest of three it would be forgotten when the new one proves good.
		after.Good = append([]string{boot.Image}, slices.Delete(slices.Clone(env.Good), i, i+1)...)
	}
	if after.Active.ID == id {
		after.Active = grub.Trial{} // tried before: it begins anew
	}
	return m.writeEnv(env, after, o.step)
}

// keeps says whether active, which holds the image `was`, is to become passive: when it is the good image that runs, or the only good
// one in a machine that runs recovery.
func (m *Machine) keeps(ctx context.Context, v volume, boot Boot, env grub.Env, was string) bool {
	switch {
	case !slices.Contains(env.Good, was):
		return false
	case boot.Slot != Recovery:
		return boot.Slot == Active && was == boot.Image
	}
	passive, err := ReadSlot(v.path(Passive))
	if err == nil && slices.Contains(env.Good, passive.ID) {
		return false
	}
	return VerifySlot(ctx, v.path(Active)) == nil
}

// swap makes the transition a slot. Between its renames active is missing when it is moved to passive, and GRUB takes passive.
func (m *Machine) swap(ctx context.Context, v volume, target string, moved bool, o Options) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if moved {
		if err := os.Rename(v.path(Active), v.path(Passive)); err != nil {
			return err
		}
		o.step("rename active to passive")
	}
	if err := os.Rename(v.path(transitionSlot), v.path(target)); err != nil {
		if moved {
			err = errors.Join(err, os.Rename(v.path(Passive), v.path(Active)))
		}
		return err
	}
	o.step("rename transition to " + target)
	if err := syncPath(filepath.Dir(v.path(target))); err != nil {
		return err
	}
	o.step("sync folder")
	if err := v.settle(ctx); err != nil {
		return err
	}
	o.step("file system read-only")
	return nil
}

const transitionSlot = "transition"

func (v volume) path(slot string) string { return filepath.Join(v.dir(), SlotFile(slot)) }

func (m *Machine) sizeOf(imageBytes int64) int64 {
	if m.slotSize != nil {
		return m.slotSize(imageBytes)
	}
	return SlotSize(imageBytes)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func name(id image.Identity) string {
	short := id.ID[:min(12, len(id.ID))]
	if id.Version == "" {
		return short
	}
	return id.Version + " (" + short + ")"
}
