package node

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/upgrade"
)

// Slots is the machine's operating system in two slots; *upgrade.Machine is one.
type Slots interface {
	// Booted returns upgrade.ErrNotBooted on a machine that is not started from a slot.
	Booted() (upgrade.Boot, error)
	// OnTrial says whether the running image has yet to prove good.
	OnTrial() (bool, error)
	// State looks at the slots, which takes a moment.
	State(ctx context.Context, verify bool) (upgrade.State, error)
	// MarkGood says that the running image is good. It may be said again.
	MarkGood(upgrade.Options) error
	// RecordBad notes why the running image is not.
	RecordBad(reason string, o upgrade.Options) error
	// SetTries sets how often an image on trial is started, 1 to 9.
	SetTries(n int) error
}

// judgedFile is there, in the run directory, once the running image needs no
// judge in this boot; muster-health.timer then rests.
const judgedFile = "image-judged"

// systemReboot restarts the machine in order.
func systemReboot(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, "systemctl", "reboot").CombinedOutput(); err != nil {
		return fmt.Errorf("restart the machine: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// otherIsGood tells whether there is another image that proved good and would be
// started when the running one is given up.
func otherIsGood(s upgrade.State, boot upgrade.Boot) bool {
	for _, slot := range []string{upgrade.Active, upgrade.Passive} {
		other, ok := s.Slots[slot]
		if ok && slot != boot.Slot && other.Good && other.Problem == "" && other.Digest != digest(boot.Image) {
			return true
		}
	}
	return false
}

// digest is how people see an image's id.
func digest(id string) string { return "sha256:" + id }

// condemn notes why the running image is bad and restarts the machine, for the
// boot loader to count. It does not restart a machine that has nothing better:
// that would only end in recovery, which helps nobody.
func condemn(ctx context.Context, slots Slots, boot upgrade.Boot, reason string, reboot func(context.Context) error) error {
	state, err := slots.State(ctx, false)
	if err != nil {
		return fmt.Errorf("look for an image to go back to: %w", err)
	}
	if !otherIsGood(state, boot) {
		return errNothingBetter
	}
	// Best effort: a reason that cannot be written must not keep a dead image running.
	noted := slots.RecordBad(reason, upgrade.Options{})
	if errors.Is(noted, upgrade.ErrBusy) {
		return noted // an upgrade of recovery or a reset is at work, which ends
	}
	if err := reboot(ctx); err != nil {
		return errors.Join(err, noted)
	}
	return nil
}

// errNothingBetter says that no other slot holds an image that proved good.
var errNothingBetter = errors.New("no other slot holds an image that proved good")

// MarkAlone is for a machine that belongs to no site: it reads its configuration,
// and more is not asked of its image.
func MarkAlone(slots Slots, runDir string) error {
	if _, err := slots.Booted(); errors.Is(err, upgrade.ErrNotBooted) {
		return nil
	}
	if err := slots.MarkGood(upgrade.Options{}); err != nil {
		return err
	}
	return markJudged(runDir)
}

func markJudged(runDir string) error {
	if err := p2p.WriteFile(filepath.Join(runDir, judgedFile), nil, 0o600); err != nil {
		return fmt.Errorf("note that the image is judged: %w", err)
	}
	return nil
}
