package scenario

import (
	"fmt"
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
// MUSTER_SEED when. Of many cuts, half are another machine's at the same time.
func TestWheneverThePowerIsCutAGoodSlotBoots(t *testing.T) {
	t.Parallel()
	cuts, seed := number(t, "MUSTER_POWERCUTS", 5), number(t, "MUSTER_SEED", 1)
	images := [2]pushed{bare.push(t, "v2"), bare.push(t, "v3")}
	if cuts < 20 {
		// No subtest: a parallel one would be queued behind all other tests, and take ten minutes alone at the end.
		takeRoom(t, 1)
		cutPower(t, images, cuts, rand.New(rand.NewPCG(uint64(seed), 0)))
		return
	}
	for i, cuts := range []int{cuts - cuts/2, cuts / 2} {
		t.Run(fmt.Sprintf("machine %d", i+1), func(t *testing.T) {
			parallel(t)
			cutPower(t, images, cuts, rand.New(rand.NewPCG(uint64(seed), uint64(i))))
		})
	}
}

func cutPower(t *testing.T, images [2]pushed, cuts int, random *rand.Rand) {
	m := formed(t, vm.Options{Resets: 1000})
	upgraded := func() (took time.Duration) {
		begun := time.Now()
		m.upgrade(images[0])
		took = time.Since(begun)
		m.reboot()
		m.waitReady()
		m.waitGood()
		require.Equal(t, images[0].digest(), m.state().Slots["active"].Digest)
		images[0], images[1] = images[1], images[0]
		return took
	}
	// Spread over the time of a whole upgrade: one that goes on with what a cut one has pulled is faster, and the boot is cut that follows.
	window := upgraded()
	t.Logf("an upgrade takes %s", window.Round(time.Second))
	for i := range cuts {
		m.sh("nohup " + upgradeCommand(images[0]) + " >/run/upgrade.log 2>&1 && (sleep 0.2; systemctl reboot) >/dev/null 2>&1 &")
		after := time.Duration(random.Int64N(int64(window)))
		time.Sleep(after)
		m.PowerCut()
		whole := wholeSlots(t, m.disk)
		m.powerOn()
		m.waitReady()
		m.waitGood()
		s := m.state()
		t.Logf("cut %d after %s: %s boots %s, whole are %v", i+1, after.Round(100*time.Millisecond), s.Booted, m.version(), whole)
		require.Contains(t, whole, s.Booted)
		require.Empty(t, s.Quarantined)
		if s.Slots[s.Booted].Digest == images[0].digest() {
			images[0], images[1] = images[1], images[0]
		}
	}
	// What was cut can be done.
	upgraded()
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
