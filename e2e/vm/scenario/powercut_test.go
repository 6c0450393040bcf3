package scenario

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/vm"
)

// The power is cut while an upgrade is written, and while the machine restarts into it. Whenever that is, the machine comes up by itself
// from a slot whose files are what they were when the slot was made, and the upgrade can be run again. MUSTER_POWERCUTS says how often,
// MUSTER_SEED when.
func TestWheneverThePowerIsCutAGoodSlotBoots(t *testing.T) {
	cuts := number(t, "MUSTER_POWERCUTS", 5)
	seed := number(t, "MUSTER_SEED", 1)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	images := []pushed{pushImage(t, "v2"), pushImage(t, "v3")}
	m := formed(t, false, vm.Options{Resets: 1000})

	// How long an upgrade takes here, to spread the cuts over all of it.
	begun := time.Now()
	m.upgrade(images[0])
	window := time.Since(begun)
	m.reboot()
	m.waitReady()
	m.waitGood()
	t.Logf("seed %d, an upgrade takes %s", seed, window.Round(time.Second))
	for i := range cuts {
		next := images[(i+1)%len(images)]
		if m.version() == "v3" {
			next = images[0]
		}
		m.sh("nohup " + upgradeCommand(next) + " >/run/upgrade.log 2>&1 && (sleep 0.2; systemctl reboot) >/dev/null 2>&1 &")
		after := time.Duration(random.Int64N(int64(window + 20*time.Second)))
		time.Sleep(after)
		m.PowerCut()
		m.powerOn()
		m.eventually(fallTime, "the agent to be up", func() bool {
			out, err := m.try("systemctl is-active muster")
			return err == nil && out == "active\n"
		})
		s := m.state()
		t.Logf("cut %d after %s: %s boots %s", i+1, after.Round(100*time.Millisecond), s.Booted, s.Slots[s.Booted].Version)
		require.Contains(t, []string{"active", "passive"}, s.Booted)
		m.sh("muster state --verify")
		m.waitReady()
		m.waitGood()
		require.Empty(t, s.Quarantined)
	}
	// What was cut can be done.
	next := images[0]
	if m.version() == "v2" {
		next = images[1]
	}
	m.upgrade(next)
	m.reboot()
	m.waitReady()
	m.waitGood()
	require.Equal(t, next.digest(), m.state().Slots["active"].Digest)
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, name)
	return n
}
