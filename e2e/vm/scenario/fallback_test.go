package scenario

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/vm"
	"github.com/muster-edge/muster/upgrade"
)

// requireFallenBack waits until the machine runs its old version from passive by itself, and the image that failed is in quarantine after
// the old one has proved good.
func requireFallenBack(t *testing.T, m *machine, old string, failed pushed, reason string) {
	t.Helper()
	m.waitBooted("passive", fallTime)
	m.waitReady()
	require.Equal(t, old, m.version())
	// `muster state` at each look would keep an emulated machine from what is waited for.
	m.eventually(readyTime, "the quarantine", func() bool {
		_, err := m.try("grep -q '" + upgrade.OutcomeFellBack + "' /oem/muster/upgrade.json")
		return err == nil
	})
	s := m.state()
	require.Equal(t, "passive", s.Booted)
	require.Len(t, s.Quarantined, 1)
	require.Contains(t, string(s.Quarantined[0]), failed.id)
	require.Regexp(t, reason, s.FallbackReason)
	require.Equal(t, "fell back", s.LastUpgrade["outcome"])
	// It is not tried again.
	_, err := m.try(upgradeCommand(failed))
	var exit *vm.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 4, exit.Code, exit.Output)
	require.Contains(t, exit.Output, "quarantine")
}

// upgraded is a machine with v1 that was given another image and is on its way into it.
func upgraded(t *testing.T, p pushed) *machine {
	t.Helper()
	m := formed(t, vm.Options{})
	m.upgrade(p)
	m.reboot()
	return m
}

func TestAKernelThatRotsOnTheDiskIsPassedOver(t *testing.T) {
	parallel(t)
	v2 := bare.push(t, "v2")
	m := formed(t, vm.Options{})
	m.upgrade(v2)
	// A byte of the kernel, in the slot and nowhere else.
	m.sh(`set -e
mount -o remount,rw /run/initramfs/cos-state
mkdir -p /run/slot
mount -o loop /run/initramfs/cos-state/cOS/active.img /run/slot
printf '\377' | dd of=/run/slot/boot/vmlinuz bs=1 seek=5000000 conv=notrunc status=none
umount /run/slot
sync
mount -o remount,ro /run/initramfs/cos-state`)
	boots := m.Boots()
	m.reboot()
	m.waitBooted("passive", fallTime)
	require.Equal(t, boots+1, m.Boots(), "GRUB sees it before it boots anything")
	m.waitReady()
	require.Equal(t, "v1", m.version())
	m.eventually(readyTime, "the reason", func() bool {
		var s state
		return m.ask("state", &s) && strings.Contains(s.FallbackReason, "hash")
	})
	// The disk is to blame, not the image: it can be installed again.
	require.Empty(t, m.state().Quarantined)
	m.upgrade(v2)
	require.Equal(t, v2.digest(), m.state().Slots["active"].Digest)
}

func TestAnImageWithoutAKernelEndsOnTheOldSlot(t *testing.T) {
	parallel(t)
	bad := bare.push(t, "v2-bad-kernel", "bad-kernel")
	requireFallenBack(t, upgraded(t, bad), "v1", bad, "boot loader cannot start")
}

func TestAPanicEndsOnTheOldSlot(t *testing.T) {
	parallel(t)
	requireNeverProvedGood(t, "panic", "Kernel panic")
}

func TestAnInitThatHangsEndsOnTheOldSlot(t *testing.T) {
	parallel(t)
	requireNeverProvedGood(t, "hang", "variant hang")
}

// requireNeverProvedGood boots a variant that gets as far as that line on the console, and no agent.
func requireNeverProvedGood(t *testing.T, variant, line string) {
	t.Helper()
	bad := bare.push(t, "v2-"+variant, variant)
	m := upgraded(t, bad)
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	_, err := m.WaitFor(ctx, regexp.MustCompile(line))
	require.NoError(t, err)
	requireFallenBack(t, m, "v1", bad, "did not prove good")
}

func TestRecoveryBootsWhenBothSlotsAreDestroyed(t *testing.T) {
	parallel(t)
	m := formed(t, vm.Options{})
	m.sh(`set -e
mount -o remount,rw /run/initramfs/cos-state
for slot in active passive; do
	dd if=/dev/zero of=/run/initramfs/cos-state/cOS/$slot.img bs=64k count=1 conv=notrunc,fsync status=none
done
sync`)
	// The system that runs has lost its root, too.
	m.PowerCut()
	m.powerOn()
	m.waitBooted("recovery", fallTime)
	require.Equal(t, "recovery", m.sh("ls /run/cos | sed -n 's/_mode$//p'"))
	require.Equal(t, "v1", m.version())
	s := m.state()
	require.Equal(t, "recovery", s.Booted)
	require.NotEmpty(t, s.FallbackReason)

	// And from there the machine is repaired.
	v2 := bare.push(t, "v2")
	m.upgrade(v2)
	m.reboot()
	m.waitBooted("active", fallTime)
	m.waitReady()
	require.Equal(t, "v2", m.version())
}
