package grub

import "slices"

// The slots, in the order in which GRUB takes them.
const (
	SlotActive   = "active"
	SlotPassive  = "passive"
	SlotRecovery = "recovery"
)

// EntryStateReset is the next_entry that boots recovery with muster.reset.
const EntryStateReset = "statereset"

// Why a slot was passed over.
const (
	ReasonTries      = "tries"      // on trial, and started as often as may be
	ReasonHash       = "hash"       // kernel or initrd are not what the image says
	ReasonUnreadable = "unreadable" // no slot file, no identity or no hashes in it
	ReasonRefused    = "refused"    // kernel and initrd are what the image says, and GRUB cannot start them
)

var reasons = []string{ReasonTries, ReasonHash, ReasonUnreadable, ReasonRefused}

// SlotView is what GRUB sees of a slot file.
type SlotView struct {
	ID      string // the identity inside; empty when slot file, identity or boot.sha256 cannot be read
	Match   bool   // kernel and initrd match boot.sha256
	Refused bool   // all the same they are none for GRUB
}

// Decision is what GRUB does.
type Decision struct {
	Slot  string // empty: nothing boots, GRUB starts the machine again
	ID    string // the image that boots
	Reset bool   // recovery is started to reset the machine
	Last  bool   // recovery is started because no slot can be, not because someone asked for it
	Try   int    // which try this is; 0: not counted
	Env   *Env   // what the environment says when the kernel starts; nil when it cannot be read
}

// Choose says what GRUB does with this environment (nil: it cannot be read) and these slots; Config is the same in GRUB's
// language.
func Choose(env *Env, slots map[string]SlotView) Decision {
	order := []string{SlotActive, SlotPassive, SlotRecovery}
	if env == nil {
		return take([]string{SlotPassive, SlotActive, SlotRecovery}, "", nil, slots)
	}
	after := *env
	entry := after.NextEntry
	after.NextEntry = ""
	switch entry {
	case SlotPassive:
		order = []string{SlotPassive, SlotActive, SlotRecovery}
	case SlotRecovery, EntryStateReset:
		order = []string{SlotRecovery}
	}
	d := take(order, entry, &after, slots)
	d.Reset = entry == EntryStateReset && d.Slot != ""
	if d.Slot == "" && len(order) > 1 {
		// Not even recovery: to try again is all that is left.
		after.Active.Tries, after.Passive.Tries = 0, 0
	}
	return d
}

// take boots the first slot of the order that can be. The slot that was asked for by name is not passed over for its tries.
func take(order []string, asked string, env *Env, slots map[string]SlotView) Decision {
	passOver := func(slot, reason string) {
		if env != nil && slot != SlotRecovery {
			env.FellBack = slot + ":" + reason
		}
	}
	for _, slot := range order {
		view := slots[slot]
		if !validID(view.ID) {
			passOver(slot, ReasonUnreadable)
			continue
		}
		d := Decision{Slot: slot, ID: view.ID, Env: env, Last: slot == SlotRecovery && len(order) > 1}
		if env != nil && slot != SlotRecovery && !slices.Contains(env.Good, view.ID) {
			trial := &env.Active
			if slot == SlotPassive {
				trial = &env.Passive
			}
			tries := trial.Tries
			if trial.ID != view.ID {
				tries = 0
			}
			if tries >= env.MaxTries && asked != slot {
				passOver(slot, ReasonTries)
				continue
			}
			if !view.Match {
				passOver(slot, ReasonHash)
				continue
			}
			*trial = Trial{view.ID, min(tries+1, 9)}
			d.Try = trial.Tries
		}
		if !view.Match {
			passOver(slot, ReasonHash)
			continue
		}
		if view.Refused {
			passOver(slot, ReasonRefused)
			continue
		}
		return d
	}
	return Decision{Env: env}
}
