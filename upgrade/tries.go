package upgrade

import (
	"errors"
	"fmt"

	"github.com/muster-edge/muster/upgrade/grub"
)

// SetTries sets how often an image on trial is started, 1 to 9. An environment that cannot be read is left alone: the boot
// loader does not count with it, and MarkGood makes a new one.
func (m *Machine) SetTries(n int) error {
	err := m.locked(func() error {
		env, err := grub.ReadEnv(m.envPath())
		if errors.Is(err, grub.ErrEnvUnreadable) {
			return nil
		}
		if err != nil {
			return err
		}
		after := env
		after.MaxTries = n
		return m.writeEnv(env, after, func(string) {})
	})
	if err != nil {
		return fmt.Errorf("set the tries of an image to %d: %w", n, err)
	}
	return nil
}
