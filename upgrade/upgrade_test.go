package upgrade

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/upgrade/grub"
	"github.com/muster-edge/muster/upgrade/image"
)

var runsActive = Boot{Slot: Active, Image: idOf("v1")}

// on starts a fresh machine (v1 in active, v0 in passive, both good) for the time of a test.
func on(t *testing.T, boot Boot) (testDisk, started) {
	t.Helper()
	d := newDisk(t, "v1", "v0")
	m := d.start(t, boot)
	t.Cleanup(m.off)
	return d, m
}

func (m started) env(t testing.TB) grub.Env {
	t.Helper()
	env, err := grub.ReadEnv(m.envPath())
	require.NoError(t, err)
	return env
}

func (m started) change(t testing.TB, change func(*grub.Env)) {
	t.Helper()
	env := m.env(t)
	change(&env)
	require.NoError(t, env.Write(m.envPath()))
}

func (m started) versions(t testing.TB) map[string]string {
	t.Helper()
	s, err := m.State(t.Context(), true)
	require.NoError(t, err)
	all := map[string]string{}
	for name, slot := range s.Slots {
		require.Empty(t, slot.Problem, name)
		require.True(t, *slot.Verified, name)
		all[name] = slot.Version
	}
	return all
}

var untouched = map[string]string{Active: "v1", Passive: "v0", Recovery: "recovery"}

func TestAnUpgradeIsRefusedOnTrial(t *testing.T) {
	_, m := on(t, runsActive)
	m.change(t, func(e *grub.Env) { e.Good = []string{idOf("v0")} })
	_, err := m.Upgrade(t.Context(), &fakeImage{version: "v2"}, Options{Force: true})
	require.ErrorIs(t, err, ErrRefused)
	require.Equal(t, untouched, m.versions(t))
}

func TestAnImageThatIsInstalledIsNotInstalledAgain(t *testing.T) {
	_, m := on(t, runsActive)
	r, err := m.Upgrade(t.Context(), &fakeImage{version: "v1", chunk: func() error { return errors.New("unpacked") }}, Options{})
	require.NoError(t, err)
	require.True(t, r.Unchanged)
}

func TestASecondUpgradeBeforeTheRestartKeepsTheImageThatRuns(t *testing.T) {
	_, m := on(t, runsActive)
	for _, version := range []string{"v2", "v3"} {
		_, err := m.Upgrade(t.Context(), &fakeImage{version: version}, Options{})
		require.NoError(t, err)
	}
	require.Equal(t, map[string]string{Active: "v3", Passive: "v1", Recovery: "recovery"}, m.versions(t))
}

func TestAnUpgradeThatFailsLeavesTheMachineAsItWas(t *testing.T) {
	interrupted, cancel := context.WithCancel(t.Context())
	calls := 0
	for name, c := range map[string]struct {
		ctx  context.Context
		img  *fakeImage
		size int64
		want error
	}{
		"the source fails": {t.Context(), &fakeImage{version: "v2", chunk: func() error { return image.ErrUnreachable }}, testSlotSize, image.ErrUnreachable},
		"an interrupt": {interrupted, &fakeImage{version: "v2", chunk: func() error {
			if calls++; calls == 4 {
				cancel()
			}
			return nil
		}}, testSlotSize, context.Canceled},
		"no space": {t.Context(), &fakeImage{version: "v2"}, 64 * mib, ErrNoSpace},
	} {
		t.Run(name, func(t *testing.T) {
			d, m := on(t, runsActive)
			m.slotSize = func(int64) int64 { return c.size }
			before := m.env(t)
			_, err := m.Upgrade(c.ctx, c.img, Options{})
			require.ErrorIs(t, err, c.want)
			require.Equal(t, untouched, m.versions(t))
			require.Equal(t, before, m.env(t))
			holds(Active, "v1")(t, d) // and no transition
		})
	}
}

func TestAFullOEMStopsTheUpgradeBeforeTheSwap(t *testing.T) {
	d, m := on(t, runsActive)
	f, err := os.Create(filepath.Join(m.OEM, "full"))
	require.NoError(t, err)
	for _, size := range []int{64 << 10, 1 << 10} { // the last blocks, too
		for err = nil; err == nil; {
			if _, err = f.Write(make([]byte, size)); err == nil {
				err = f.Sync()
			}
		}
		require.ErrorIs(t, err, unix.ENOSPC)
	}
	require.NoError(t, f.Close())
	_, err = m.Upgrade(t.Context(), &fakeImage{version: "v2"}, Options{})
	require.ErrorIs(t, err, unix.ENOSPC)
	require.Equal(t, untouched, m.versions(t))
	holds(Active, "v1")(t, d)
}

func TestOneUpgradeAtATime(t *testing.T) {
	_, m := on(t, runsActive)
	_, err := m.Upgrade(t.Context(), &fakeImage{version: "v2", chunk: func() error {
		require.ErrorIs(t, m.Rollback(Options{}), ErrBusy)
		_, err := m.State(t.Context(), false)
		return err // which may look meanwhile
	}}, Options{})
	require.NoError(t, err)
}

func TestWhatFellBackIsQuarantinedOnceTheOtherImageProvedGood(t *testing.T) {
	_, m := on(t, Boot{Slot: Passive, Image: idOf("v0")})
	m.change(t, func(e *grub.Env) {
		e.Good, e.FellBack, e.Active = []string{idOf("v0")}, "active:tries", grub.Trial{ID: idOf("v1"), Tries: 3}
	})
	upgrade := func(force bool) error {
		_, err := m.Upgrade(t.Context(), &fakeImage{version: "v1"}, Options{Force: force})
		return err
	}
	require.NoError(t, m.MarkGood(Options{}))
	require.NoError(t, m.MarkGood(Options{}))
	s, err := m.State(t.Context(), false)
	require.NoError(t, err)
	require.Len(t, s.Quarantined, 1)
	require.Equal(t, idOf("v1"), s.Quarantined[0].ID)
	require.Contains(t, s.FallbackReason, "did not prove good")
	require.Empty(t, m.env(t).FellBack)

	require.ErrorIs(t, upgrade(false), ErrRefused)
	require.NoError(t, m.Unquarantine("sha256:"+idOf("v1"), "it was the switch", Options{}))
	require.ErrorIs(t, m.Unquarantine(idOf("v1"), "again", Options{}), ErrRefused)
	require.ErrorIs(t, upgrade(false), ErrRefused, "it is in the slot and was given up")
	require.NoError(t, upgrade(true))
	require.Empty(t, m.env(t).Active, "it is tried from the beginning")
}

func TestAKernelThatTheBootLoaderRefusesIsTheImagesFaultAndOneThatRottedIsTheDisks(t *testing.T) {
	for why, quarantined := range map[string]int{"active:refused": 1, "active:hash": 0, "active:unreadable": 0} {
		_, m := on(t, Boot{Slot: Passive, Image: idOf("v0")})
		m.change(t, func(e *grub.Env) {
			e.Good, e.FellBack, e.Active = []string{idOf("v0")}, why, grub.Trial{ID: idOf("v1"), Tries: 1}
		})
		require.NoError(t, m.MarkGood(Options{}))
		s, err := m.State(t.Context(), false)
		require.NoError(t, err)
		require.Len(t, s.Quarantined, quarantined, why)
		require.NotEmpty(t, s.FallbackReason)
	}
}

func TestARollbackIsNotTheImagesFault(t *testing.T) {
	d, m := on(t, runsActive)
	require.NoError(t, m.Rollback(Options{}))
	require.NoError(t, syncFS(m.OEM))
	copied := d.copyTo(t, filepath.Join(tempDir(t), "copy"))
	decision := copied.asGRUB(t)
	require.Equal(t, Passive, decision.Slot)

	m.change(t, func(e *grub.Env) { e.FellBack = decision.Env.FellBack })
	require.NoError(t, os.WriteFile(filepath.Join(m.Run, "boot.json"), []byte(`{"slot":"passive","image":"`+idOf("v0")+`"}`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(m.Root, ImageDir, fileImage), []byte(`{"id":"`+idOf("v0")+`"}`), 0o600))
	require.NoError(t, m.MarkGood(Options{}))
	s, err := m.State(t.Context(), false)
	require.NoError(t, err)
	require.Empty(t, s.Quarantined)
}

func TestARollbackToAnImageThatNeverProvedGoodNeedsForce(t *testing.T) {
	_, m := on(t, runsActive)
	m.change(t, func(e *grub.Env) { e.Good = []string{idOf("v1")} })
	require.ErrorIs(t, m.Rollback(Options{}), ErrRefused)
	require.NoError(t, m.Rollback(Options{Force: true}))
}

func TestAnImageWithTheKernelOfAnotherIsNotMarkedGood(t *testing.T) {
	_, m := on(t, runsActive)
	m.change(t, func(e *grub.Env) { e.Good = nil })
	require.NoError(t, os.WriteFile(filepath.Join(m.Root, ImageDir, fileImage), []byte(`{"id":"other"}`), 0o600))
	require.ErrorIs(t, m.MarkGood(Options{}), ErrDamaged)
	require.Empty(t, m.env(t).Good)
}

func TestAGoodImageMakesALostEnvironmentAnew(t *testing.T) {
	_, m := on(t, runsActive)
	require.NoError(t, os.Remove(m.envPath()))
	require.NoError(t, m.MarkGood(Options{}))
	require.Equal(t, []string{idOf("v1")}, m.env(t).Good)
}

func TestAResetOnlyRunsInRecovery(t *testing.T) {
	_, m := on(t, runsActive)
	require.ErrorIs(t, m.Reset(t.Context(), Options{}), ErrRefused)
	require.NoError(t, m.RequestReset(Options{}))
	require.Equal(t, grub.EntryStateReset, m.env(t).NextEntry)
}

func TestDriftNamesWhatTheImageDoesNotExplain(t *testing.T) {
	_, m := on(t, runsActive)
	etc := filepath.Join(m.Root, "etc")
	require.NoError(t, os.Mkdir(etc, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(etc, "mine"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(etc, "hostname"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(m.OEM, "note.txt"), nil, 0o600))
	found, err := m.Drift(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Drift{{"/etc/mine", "added"}, {"/etc/os-release", "removed"}, {"/oem/note.txt", "added"}}, found)
}

func TestWhatANewerVersionWroteIntoTheStoryStays(t *testing.T) {
	r, err := decodeRecord([]byte(`{"future":{"a":1},"rolled_back":"x"}`))
	require.NoError(t, err)
	r.RolledBack = "y"
	data, err := r.encode()
	require.NoError(t, err)
	require.Contains(t, string(data), `"future"`)
	require.Contains(t, string(data), `"rolled_back": "y"`)
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"quarantined":[{"id":"a","model":"b"}],"x":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			return
		}
		again, err := r.encode()
		require.NoError(t, err)
		_, err = decodeRecord(again)
		require.NoError(t, err)
	})
}
