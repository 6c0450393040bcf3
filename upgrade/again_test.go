package upgrade

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/upgrade/grub"
)

var runsRecovery = Boot{Slot: Recovery, Image: idOf("recovery")}

// Some flickers in the first minutes of a machine's life must not cost a journey to it.
func TestRecoveryThatNobodyAskedForHasTheSlotsTriedAgain(t *testing.T) {
	d := newDisk(t, "v1", "v1")
	m := d.start(t, Boot{Slot: Active, Image: idOf("v1")})
	m.change(t, func(e *grub.Env) { *e = grub.Env{MaxTries: 2} }) // as a new disk has it
	m.off()
	var started []string
	for range 5 { // the power fails each time
		started = append(started, d.asGRUB(t).Slot)
	}
	require.Equal(t, []string{Active, Active, Passive, Passive, Recovery}, started)

	m = d.start(t, runsRecovery)
	require.NoError(t, m.TryAgain(Options{}))
	require.NoError(t, m.TryAgain(Options{}))
	m.off()
	require.Equal(t, Active, d.asGRUB(t).Slot)
}

func TestOnlyRecoveryHasTheSlotsTriedAgain(t *testing.T) {
	_, m := on(t, runsActive)
	require.ErrorIs(t, m.TryAgain(Options{}), ErrRefused)
}

func TestRecoveryMakesALostEnvironmentAnew(t *testing.T) {
	for name, do := range map[string]func(started) error{
		"try again": func(m started) error { return m.TryAgain(Options{}) },
		"upgrade": func(m started) error {
			_, err := m.Upgrade(t.Context(), &fakeImage{version: "v2"}, Options{})
			return err
		},
		"reset": func(m started) error { return m.Reset(t.Context(), Options{}) },
	} {
		t.Run(name, func(t *testing.T) {
			_, m := on(t, Boot{Slot: Recovery, Image: idOf("recovery"), Reset: name == "reset"})
			require.NoError(t, os.WriteFile(m.envPath(), []byte("torn"), 0o600))
			require.NoError(t, do(m))
			require.Empty(t, m.env(t).NextEntry)
		})
	}
}

func TestAFullOEMDoesNotKeepAGoodImageFromBeingGood(t *testing.T) {
	_, m := on(t, Boot{Slot: Passive, Image: idOf("v0")})
	m.change(t, func(e *grub.Env) {
		e.Good, e.FellBack, e.Active = nil, "active:tries", grub.Trial{ID: idOf("v1"), Tries: 3}
	})
	story := filepath.Join(m.OEM, "muster")
	require.NoError(t, os.RemoveAll(story))
	require.NoError(t, os.WriteFile(story, nil, 0o600)) // no folder for the story, as when the disk is full
	require.Error(t, m.MarkGood(Options{}))
	require.Equal(t, []string{idOf("v0")}, m.env(t).Good)

	require.NoError(t, os.Remove(story))
	require.NoError(t, m.MarkGood(Options{}))
	s, err := m.State(t.Context(), false)
	require.NoError(t, err)
	require.Len(t, s.Quarantined, 1, "what fell back is not forgotten")
}

// Three ids are kept: the one that an upgrade leaves behind must be among them after the new image's own.
func TestTheImageThatRanStaysGoodHoweverOldItIs(t *testing.T) {
	_, m := on(t, runsActive)
	m.change(t, func(e *grub.Env) { e.Good = []string{idOf("v4"), idOf("v3"), idOf("v1")} })
	_, err := m.Upgrade(t.Context(), &fakeImage{version: "v5"}, Options{})
	require.NoError(t, err)
	require.Equal(t, []string{idOf("v5"), idOf("v1"), idOf("v4")}, proved(m.env(t), Boot{Slot: Active, Image: idOf("v5")}).Good)
}

func TestAnUpgradeInRecoveryKeepsTheOnlyGoodImage(t *testing.T) {
	_, m := on(t, runsRecovery)
	m.change(t, func(e *grub.Env) { e.Good = []string{idOf("v1")} }) // v0 in passive never proved good
	_, err := m.Upgrade(t.Context(), &fakeImage{version: "v2"}, Options{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{Active: "v2", Passive: "v1", Recovery: "recovery"}, m.versions(t))
}

func TestAnUpgradeThatWasKilledLeavesNothingInTheWay(t *testing.T) {
	_, m := on(t, runsActive)
	dead := exec.Command("true")
	require.NoError(t, dead.Run())
	pid := strconv.Itoa(dead.Process.Pid)

	volumeAt := filepath.Join(m.Run, "mount-"+pid+"-1")
	require.NoError(t, os.Mkdir(volumeAt, 0o700))
	require.NoError(t, unix.Mount(m.StateDevice, volumeAt, "ext4", 0, ""))
	transition := filepath.Join(volumeAt, SlotFile(transitionSlot))
	require.NoError(t, os.WriteFile(transition, nil, 0o600))
	require.NoError(t, os.Truncate(transition, testSlotSize))
	tool(t, "mkfs.ext4", "-q", "-O", "^has_journal", transition)
	slotAt := filepath.Join(m.Run, "slot-"+pid+"-1")
	require.NoError(t, os.Mkdir(slotAt, 0o700))
	tool(t, "mount", "-o", "loop", transition, slotAt)

	t.Cleanup(func() { // for when the promise is broken
		_ = unix.Unmount(slotAt, unix.MNT_DETACH)
		_ = unix.Unmount(volumeAt, unix.MNT_DETACH)
	})

	_, err := m.Upgrade(t.Context(), &fakeImage{version: "v2"}, Options{})
	require.NoError(t, err)
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), volumeAt)
	require.NotContains(t, string(mounts), slotAt)
	left, err := filepath.Glob(filepath.Join(m.Run, "*-*-*"))
	require.NoError(t, err)
	require.Empty(t, strings.Join(left, " "))
}
