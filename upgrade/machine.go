package upgrade

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/upgrade/grub"
	"github.com/muster-edge/muster/upgrade/image"
)

// Machine is where a machine keeps its slots, and what it runs from.
type Machine struct {
	Root             string // "/": the slot that runs, with its overlays
	OEM              string // "/oem": COS_OEM, mounted read-write
	Run              string // "/run/muster": boot.json, the lock
	StateDevice      string // device of COS_STATE
	RecoveryDevice   string // device of COS_RECOVERY
	PersistentDevice string // device of COS_PERSISTENT
	Model            string // of the hardware: an image is quarantined per model

	slotSize func(imageBytes int64) int64 // nil is SlotSize
	check    func(tree, platform string) []image.Missing
}

// This returns the machine that the program runs on.
func This() *Machine {
	m := &Machine{check: image.Check, Root: "/", OEM: "/oem", Run: "/run/muster", Model: hardwareModel("/sys/class/dmi/id")}
	boot, _ := m.Booted() // who needs to know asks again
	f := finder{sys: "/sys/class/block", links: "/dev/disk", from: boot.StateDevice}
	m.StateDevice, m.RecoveryDevice = f.device(LabelState, "state"), f.device(LabelRecovery, "recovery")
	m.PersistentDevice = f.device(LabelPersistent, "persistent")
	return m
}

// Boot is how the machine was started, as muster-init reports it.
type Boot struct {
	Slot     string   `json:"slot"`  // active, passive or recovery
	Image    string   `json:"image"` // id
	Reset    bool     `json:"reset"`
	Problems []string `json:"problems"`
	// StateDevice is the partition that the slot is on: COS_STATE or COS_RECOVERY.
	StateDevice string `json:"state_device"`
}

// Booted returns how the machine was started. ErrNotBooted: not by our boot loader.
func (m *Machine) Booted() (b Boot, err error) {
	data, err := os.ReadFile(filepath.Join(m.Run, "boot.json"))
	if errors.Is(err, os.ErrNotExist) {
		return Boot{}, ErrNotBooted
	}
	if err == nil {
		err = json.Unmarshal(data, &b)
	}
	if err != nil {
		return Boot{}, fmt.Errorf("read how this machine was started: %w", err)
	}
	if !slices.Contains([]string{Active, Passive, Recovery}, b.Slot) || b.Image == "" {
		return Boot{}, fmt.Errorf("%w: slot %q, image %q", ErrNotBooted, b.Slot, b.Image)
	}
	return b, nil
}

func (m *Machine) envPath() string { return filepath.Join(m.OEM, "grubenv") }

// writeEnv writes the environment if it says anything new.
func (m *Machine) writeEnv(before, after grub.Env, step func(string)) error {
	was, err := before.Encode()
	if err != nil {
		return err
	}
	is, err := after.Encode()
	if err != nil {
		return err
	}
	if string(was) == string(is) {
		return nil
	}
	if err := after.Write(m.envPath()); err != nil {
		return err
	}
	step("write environment")
	return nil
}

// locked calls do while no other operation is at work on this machine (ErrBusy).
func (m *Machine) locked(do func() error) (err error) {
	if err := os.MkdirAll(m.Run, 0o755); err != nil {
		return fmt.Errorf("lock the slots: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(m.Run, "upgrade.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock the slots: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }() // which lets go of the lock
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrBusy
		}
		return fmt.Errorf("lock the slots: %w", err)
	}
	return do()
}

func hardwareModel(dmi string) string {
	data, err := os.ReadFile(filepath.Join(dmi, "product_name"))
	if err != nil {
		return "" // a machine without DMI is of its own model
	}
	return string(trim(data))
}
