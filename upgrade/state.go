package upgrade

import (
	"context"
	"errors"
	"slices"

	"github.com/muster-edge/muster/upgrade/grub"
)

// State is what `muster state -o json` prints.
type State struct {
	Booted         string               `json:"booted"` // active, passive or recovery
	Slots          map[string]SlotState `json:"slots"`
	Quarantined    []Quarantined        `json:"quarantined"`
	LastUpgrade    *Story               `json:"last_upgrade"`
	FallbackReason string               `json:"fallback_reason"`
	Problems       []string             `json:"problems"` // of this boot, in sentences
}

// SlotState is what is known of a slot.
type SlotState struct {
	Version string `json:"version"`
	Digest  string `json:"digest"` // "sha256:…"
	Good    bool   `json:"good"`
	Tries   int    `json:"tries"`
	// FeatureLevel is what the muster in it knows; 0: the image does not say.
	FeatureLevel int `json:"feature_level,omitempty"`
	// Verified says that every file was read and is what it should be; nil: nobody looked.
	Verified *bool  `json:"verified,omitempty"`
	Problem  string `json:"problem,omitempty"`
}

// State looks at the slots; verify reads every file of them. A slot that cannot be read has a Problem.
func (m *Machine) State(ctx context.Context, verify bool) (State, error) {
	s := State{Slots: map[string]SlotState{}, Quarantined: []Quarantined{}, Problems: []string{}}
	boot, err := m.Booted()
	if err != nil {
		return State{}, err
	}
	s.Booted = boot.Slot
	s.Problems = append(s.Problems, boot.Problems...)
	env, err := grub.ReadEnv(m.envPath())
	if errors.Is(err, grub.ErrEnvUnreadable) {
		s.Problems = append(s.Problems, err.Error())
	} else if err != nil {
		return State{}, err
	}
	rec, err := m.readRecord()
	if err != nil {
		return State{}, err
	}
	s.Quarantined = append(s.Quarantined, rec.Quarantined...)
	s.LastUpgrade, s.FallbackReason = rec.LastUpgrade, rec.FallbackReason
	if s.FallbackReason == "" {
		s.FallbackReason = explain(env.FellBack)
	}
	look := func(slots ...string) func(volume) error {
		return func(v volume) error {
			for _, slot := range slots {
				s.Slots[slot] = m.look(ctx, v, slot, env, verify)
			}
			return ctx.Err()
		}
	}
	if err := withVolume(m.StateDevice, look(Active, Passive)); err != nil {
		return State{}, err
	}
	if err := withVolume(m.RecoveryDevice, look(Recovery)); err != nil {
		return State{}, err
	}
	return s, nil
}

func (m *Machine) look(ctx context.Context, v volume, slot string, env grub.Env, verify bool) (s SlotState) {
	id, err := ReadSlot(v.path(slot))
	if err != nil {
		s.Problem = err.Error()
		return s
	}
	s.Version, s.Digest, s.Good = id.Version, "sha256:"+id.ID, slices.Contains(env.Good, id.ID)
	s.FeatureLevel = id.FeatureLevel
	for name, trial := range map[string]grub.Trial{Active: env.Active, Passive: env.Passive} {
		if name == slot && trial.ID == id.ID {
			s.Tries = trial.Tries
		}
	}
	if verify {
		err := VerifySlot(ctx, v.path(slot))
		whole := err == nil
		s.Verified = &whole
		if err != nil {
			s.Problem = err.Error()
		}
	}
	return s
}
