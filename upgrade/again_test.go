package upgrade

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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

// killedEnv makes the test's program one that is killed while it writes a slot of the device that it names.
const killedEnv = "MUSTER_TEST_KILLED"

func TestMain(m *testing.M) {
	if device := os.Getenv(killedEnv); device != "" {
		fmt.Println(dieInASlot(device)) // the parent wants no words
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func dieInASlot(device string) error {
	return withVolume(device, func(v volume) error {
		return v.writable(context.Background(), func() error {
			slot := v.path(transitionSlot)
			if err := allocate(slot, testSlotSize); err != nil {
				return err
			}
			if err := run(context.Background(), "mkfs.ext4", "-q", "-O", "^has_journal", slot); err != nil {
				return err
			}
			return withSlot(slot, true, func(dir string) error {
				if err := os.WriteFile(filepath.Join(dir, "half"), make([]byte, 1000), 0o600); err != nil {
					return err
				}
				return unix.Kill(os.Getpid(), unix.SIGKILL)
			})
		})
	})
}

func TestAnUpgradeThatWasKilledLeavesNothingInTheWay(t *testing.T) {
	d := newDisk(t, "v1", "v0")
	m := d.start(t, runsActive)
	killed := exec.Command(os.Args[0])
	killed.Env = append(os.Environ(), killedEnv+"="+m.StateDevice)
	out, err := killed.Output()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", out)
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "%s", out)

	_, err = m.Upgrade(t.Context(), &fakeImage{version: "v2"}, Options{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{Active: "v2", Passive: "v1", Recovery: "recovery"}, m.versions(t))
	require.Eventually(t, func() bool {
		loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		require.NoError(t, err)
		for _, l := range loops {
			if file, err := os.ReadFile(l); err == nil && strings.Contains(string(file), SlotFile(transitionSlot)) {
				return false
			}
		}
		return true
	}, 10*time.Second, 10*time.Millisecond, "the slot's loop device is still there")
	m.off()
	tool(t, "e2fsck", "-f", "-n", d.file("state"))
}
