package upgrade

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-edge/muster/upgrade/grub"
)

// OnTrial says whether the running image has yet to prove good. Recovery is never on trial.
func (m *Machine) OnTrial() (bool, error) {
	boot, err := m.Booted()
	if err != nil || boot.Slot == Recovery {
		return false, err
	}
	env, err := grub.ReadEnv(m.envPath())
	if errors.Is(err, grub.ErrEnvUnreadable) {
		return true, nil // MarkGood makes a new one
	}
	return !slices.Contains(env.Good, boot.Image), err
}

// MarkGood says that the running image proved good; the caller has judged it. An image that fell back before this one took
// over is quarantined now, for only now it is known that the machine was not to blame. Marking twice, or in recovery, does nothing.
func (m *Machine) MarkGood(o Options) error {
	err := m.locked(func() error {
		boot, err := m.Booted()
		if err != nil || boot.Slot == Recovery {
			return err
		}
		if id, err := readIdentity(m.Root); err != nil {
			return err
		} else if id.ID != boot.Image {
			// A cut before GRUB could see a swap: its kernel, and the root of another image.
			return fmt.Errorf("%w: the boot loader started %.12s and the root is %.12s; restart the machine", ErrDamaged, boot.Image, id.ID)
		}
		env, err := grub.ReadEnv(m.envPath())
		if errors.Is(err, grub.ErrEnvUnreadable) {
			return m.createEnv(grub.Env{Good: []string{boot.Image}}, o)
		}
		if err != nil {
			return err
		}
		after := proved(env, boot)
		rec, untold := m.readRecord()
		if untold == nil && m.conclude(&rec, boot, env, time.Now().UTC()) {
			// First: a cut before the environment is written makes this happen again, not never.
			untold = m.writeRecord(rec, o.step)
		}
		if untold != nil {
			// A full disk must not cost a good image its slot. What fell back stays noted, to be told of later.
			after.FellBack = env.FellBack
		}
		return errors.Join(untold, m.writeEnv(env, after, o.step))
	})
	if err != nil {
		return fmt.Errorf("mark the running image good: %w", err)
	}
	return nil
}

// proved is the environment in which the running image is good.
func proved(env grub.Env, boot Boot) grub.Env {
	env.FellBack = ""
	if !slices.Contains(env.Good, boot.Image) {
		// Three fit: newest first, so that the images in the slots are among them.
		env.Good = append([]string{boot.Image}, env.Good...)
		env.Good = env.Good[:min(3, len(env.Good))]
	}
	trial := &env.Active
	if boot.Slot == Passive {
		trial = &env.Passive
	}
	if trial.ID == boot.Image {
		*trial = grub.Trial{}
	}
	return env
}

// conclude brings the story up to date, and says whether there was anything to tell.
func (m *Machine) conclude(rec *record, boot Boot, env grub.Env, now time.Time) (changed bool) {
	if s := rec.LastUpgrade; s != nil && s.Slot == Active && s.To == boot.Image && s.Outcome != OutcomeGood {
		s.Outcome, s.Reason, changed = OutcomeGood, "", true
	}
	slot, why, _ := strings.Cut(env.FellBack, ":")
	if slot != Active || boot.Slot != Passive {
		return changed
	}
	failed := env.Active.ID
	reason := explain(env.FellBack)
	if rec.Bad != nil && rec.Bad.ID == failed {
		reason += ": " + rec.Bad.Reason
	}
	rec.FallbackReason = reason
	itsFault := why == grub.ReasonTries || why == grub.ReasonRefused
	if !itsFault || failed == "" || failed == boot.Image || failed == rec.RolledBack || slices.Contains(env.Good, failed) {
		return true // a disk, or a person
	}
	if rec.quarantined(failed, m.Model) == nil {
		rec.Quarantined = append(rec.Quarantined, Quarantined{failed, m.Model, reason, now})
	}
	if s := rec.LastUpgrade; s != nil && s.To == failed {
		s.Outcome, s.Reason = OutcomeFellBack, reason
	}
	return true
}

// RecordBad notes why the running image is bad, before the machine restarts for GRUB to count.
func (m *Machine) RecordBad(reason string, o Options) error {
	return m.locked(func() error {
		boot, err := m.Booted()
		if err != nil {
			return err
		}
		rec, err := m.readRecord()
		if err != nil {
			return err
		}
		rec.Bad = &verdict{boot.Image, reason, time.Now().UTC()}
		return m.writeRecord(rec, o.step)
	})
}

// Unquarantine lets the image be installed on this hardware again. ErrRefused: it is not quarantined.
func (m *Machine) Unquarantine(id, reason string, o Options) error {
	id = strings.TrimPrefix(id, "sha256:")
	return m.locked(func() error {
		rec, err := m.readRecord()
		if err != nil {
			return err
		}
		q := rec.quarantined(id, m.Model)
		if q == nil {
			return fmt.Errorf("%w: image %s is not quarantined on this hardware", ErrRefused, id)
		}
		rec.Quarantined = slices.DeleteFunc(rec.Quarantined, func(o Quarantined) bool { return o == *q })
		rec.Released = append(rec.Released, Quarantined{id, m.Model, reason, time.Now().UTC()})
		return m.writeRecord(rec, o.step)
	})
}

// explain says in words why GRUB passed a slot over.
func explain(fellBack string) string {
	slot, why, ok := strings.Cut(fellBack, ":")
	if !ok {
		return ""
	}
	return slot + " " + map[string]string{
		grub.ReasonTries:      "was started as often as may be and did not prove good",
		grub.ReasonHash:       "has a kernel or initrd that does not match its hash",
		grub.ReasonUnreadable: "could not be read",
		grub.ReasonRefused:    "has a kernel that the boot loader cannot start",
	}[why]
}

// Rollback makes passive the slot that starts next, and active one that is not tried again. ErrRefused: passive cannot be
// read, did not prove good (unless forced), or is what active is.
func (m *Machine) Rollback(o Options) error {
	err := m.locked(func() error {
		env, err := grub.ReadEnv(m.envPath())
		if err != nil {
			return err
		}
		return withVolume(m.StateDevice, func(v volume) error {
			active, err := ReadSlot(v.path(Active))
			if err != nil {
				return fmt.Errorf("%w: active cannot be read, passive starts next anyway: %w", ErrRefused, err)
			}
			passive, err := ReadSlot(v.path(Passive))
			switch {
			case err != nil:
				return fmt.Errorf("%w: passive cannot be read: %w", ErrRefused, err)
			case passive.ID == active.ID:
				return fmt.Errorf("%w: both slots hold %s", ErrRefused, name(active))
			case !slices.Contains(env.Good, passive.ID) && !o.Force:
				return fmt.Errorf("%w: %s in passive did not prove good; --force starts it all the same", ErrRefused, name(passive))
			}
			rec, err := m.readRecord()
			if err != nil {
				return err
			}
			rec.RolledBack, rec.FallbackReason = active.ID, "rolled back by hand from "+name(active)
			if s := rec.LastUpgrade; s != nil && s.To == active.ID {
				s.Outcome, s.Reason = OutcomeRolledBack, ""
			}
			if err := m.writeRecord(rec, o.step); err != nil {
				return err
			}
			after := env
			after.Good = slices.DeleteFunc(slices.Clone(env.Good), func(id string) bool { return id == active.ID })
			after.Active = grub.Trial{ID: active.ID, Tries: max(env.MaxTries, 1)}
			after.NextEntry = ""
			if passiveTrial := after.Passive; passiveTrial.ID == passive.ID && o.Force {
				after.Passive = grub.Trial{}
			}
			return m.writeEnv(env, after, o.step)
		})
	})
	if err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}
