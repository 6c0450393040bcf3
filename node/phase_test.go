package node

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestAnUndisturbedStartGoesThroughThePhasesInOrder(t *testing.T) {
	for name, path := range map[string][]Phase{
		"founder":   {PhaseSearching, PhaseFounding, PhaseJoining, PhaseConnecting, PhaseInstalling, PhaseRunning},
		"latecomer": {PhaseSearching, PhaseEnrolling, PhaseJoining, PhaseConnecting, PhaseInstalling, PhaseRunning},
		"return":    {PhaseJoining, PhaseConnecting, PhaseInstalling, PhaseRunning},
		"stuck":     {PhaseSearching, PhaseBlocked, PhaseEnrolling, PhaseJoining},
	} {
		t.Run(name, func(t *testing.T) {
			p, _, err := openPhases(filepath.Join(t.TempDir(), "phase.json"), time.Now)
			require.NoError(t, err)
			require.Equal(t, PhaseStarting, p.present().Phase)
			for _, next := range path {
				change, err := p.enter(next, "")
				require.NoError(t, err)
				require.Equal(t, phaseEntered, change)
			}
		})
	}
}

func TestAMemberNeverTurnsBackIntoANewcomer(t *testing.T) {
	newcomer := []Phase{PhaseSearching, PhaseFounding, PhaseEnrolling}
	for _, member := range []Phase{PhaseJoining, PhaseConnecting, PhaseInstalling, PhaseRunning} {
		for _, next := range newcomer {
			p := &phases{path: filepath.Join(t.TempDir(), "phase.json"), now: time.Now, current: phaseRecord{Phase: member}}
			change, err := p.enter(next, "")
			require.ErrorIs(t, err, ErrPhase, "%s after %s", next, member)
			require.Equal(t, phaseKept, change)
			require.Equal(t, member, p.present().Phase)
		}
	}
}

func TestAPhaseKeepsItsTimeAndRenewsItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, err := openPhases(filepath.Join(t.TempDir(), "phase.json"), time.Now)
		require.NoError(t, err)
		_, err = p.enter(PhaseSearching, "alone")
		require.NoError(t, err)
		since := p.present().Since
		time.Sleep(time.Minute)

		change, err := p.enter(PhaseSearching, "alone")
		require.NoError(t, err)
		require.Equal(t, phaseKept, change)

		change, err = p.enter(PhaseSearching, "two are here")
		require.NoError(t, err)
		require.Equal(t, phaseRenewed, change)
		require.Equal(t, phaseRecord{Phase: PhaseSearching, Since: since, Reason: "two are here"}, p.present())

		_, err = p.enter(PhaseFounding, "")
		require.NoError(t, err)
		require.Equal(t, since.Add(time.Minute), p.present().Since)
		require.Empty(t, p.present().Reason)
	})
}

func TestARestartRemembersWhereTheNodeWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "phase.json")
	p, before, err := openPhases(path, time.Now)
	require.NoError(t, err)
	require.Empty(t, before)
	for _, next := range []Phase{PhaseSearching, PhaseFounding} {
		_, err = p.enter(next, "")
		require.NoError(t, err)
	}
	p, before, err = openPhases(path, time.Now)
	require.NoError(t, err)
	require.Equal(t, PhaseFounding, before)
	require.Equal(t, PhaseStarting, p.present().Phase)
}

func TestADamagedPhaseFileCostsOnlyTheMemory(t *testing.T) {
	for name, text := range map[string]string{"torn": `{"phase":"run`, "empty": "", "other": `[1]`, "zeroes": "\x00\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "phase.json")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			p, before, err := openPhases(path, time.Now)
			require.NoError(t, err)
			require.Empty(t, before)
			require.Equal(t, PhaseStarting, p.present().Phase)
		})
	}
}

func TestADiskThatTakesNothingDoesNotHoldAPhaseBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	require.NoError(t, os.Mkdir(dir, 0o700))
	p, _, err := openPhases(filepath.Join(dir, "phase.json"), time.Now)
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(dir))
	change, err := p.enter(PhaseSearching, "")
	require.Error(t, err)
	require.Equal(t, phaseEntered, change)
	require.Equal(t, PhaseSearching, p.present().Phase)
}

func TestEveryPhaseCanBeLeftAndReached(t *testing.T) {
	reached := map[Phase]bool{PhaseStarting: true, PhaseBlocked: true}
	for phase, next := range transitions {
		require.NotEmpty(t, next, phase)
		for _, n := range next {
			require.Contains(t, transitions, n)
			reached[n] = true
		}
	}
	require.Len(t, reached, len(transitions))
}

// TestPhasesAreOnDiskBeforeTheyAreActedOn walks at random: whatever enter says,
// file and memory agree.
func TestPhasesAreOnDiskBeforeTheyAreActedOn(t *testing.T) {
	var all []Phase
	for p := range transitions {
		all = append(all, p)
	}
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(dir, "phase.json")
		p, _, err := openPhases(path, time.Now)
		require.NoError(t, err)
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			was := p.present().Phase
			next := rapid.SampledFrom(all).Draw(t, "next")
			change, err := p.enter(next, rapid.StringN(0, 3, -1).Draw(t, "reason"))
			if err != nil {
				require.ErrorIs(t, err, ErrPhase)
				require.Equal(t, was, p.present().Phase)
			} else {
				require.Equal(t, next, p.present().Phase)
				require.Equal(t, was != next, change == phaseEntered)
			}
		}
		present := p.present().Phase
		_, onDisk, err := openPhases(path, time.Now)
		require.NoError(t, err)
		require.Equal(t, present, onDisk)
	})
}
