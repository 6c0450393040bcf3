package upgrade

import (
	"errors"
	"fmt"

	"github.com/muster-edge/muster/upgrade/grub"
)

// TryAgain lets the boot loader try the slots again that it gave up, and forgets what it gave them up for. It is for recovery that
// was started because nothing else could be (ErrRefused elsewhere): power that failed some times in a row is no fault of an image, and
// nobody may be there to see. The caller restarts the machine.
func (m *Machine) TryAgain(o Options) error {
	err := m.locked(func() error {
		boot, err := m.Booted()
		if err != nil {
			return err
		}
		if boot.Slot != Recovery || boot.Reset {
			return fmt.Errorf("%w: only recovery lets the slots be tried again, and this is %s", ErrRefused, boot.Slot)
		}
		env, err := m.environment(boot, o)
		if err != nil {
			return err
		}
		after := env
		after.Active.Tries, after.Passive.Tries = 0, 0
		return m.writeEnv(env, after, o.step)
	})
	if err != nil {
		return fmt.Errorf("try the slots again: %w", err)
	}
	return nil
}

// environment reads the boot environment. In recovery one that cannot be read is made anew, for no other image may ever run to do so.
func (m *Machine) environment(boot Boot, o Options) (grub.Env, error) {
	env, err := grub.ReadEnv(m.envPath())
	if boot.Slot != Recovery || !errors.Is(err, grub.ErrEnvUnreadable) {
		return env, err
	}
	if err := m.createEnv(grub.Env{}, o); err != nil {
		return grub.Env{}, err
	}
	return grub.ReadEnv(m.envPath())
}

func (m *Machine) createEnv(env grub.Env, o Options) error {
	if err := grub.CreateEnv(m.envPath(), env); err != nil {
		return err
	}
	o.step("create environment")
	return syncFS(m.OEM) // GRUB reads no journal
}
