package scenario

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/e2e/vm"
	"github.com/muster-edge/muster/upgrade"
	"github.com/muster-edge/muster/upgrade/grub"
	upgradeimage "github.com/muster-edge/muster/upgrade/image"
)

// bootedCopies bounds how many copies of a disk in the middle of an upgrade are booted; ten at least.
const bootedCopies = 12

// The fast loop over all steps of an upgrade (package upgrade) judges copies of small disks. Here the disk is a real one: what an upgrade
// has written of it at some of its steps, all renames among them, boots.
func TestCopiesTakenInTheMiddleOfAnUpgradeBoot(t *testing.T) {
	t.Parallel()
	v2 := bare.push(t, "v2")
	dir, err := os.MkdirTemp(work, "copies-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	disk := filepath.Join(dir, "disk.raw")
	require.NoError(t, vm.Flatten(t.Context(), formedDisk(t, bare), disk))

	var copies []copied
	upgradeDisk(t, disk, v2, func(step string, nth int) {
		// Chunks are many and alike.
		if strings.HasPrefix(step, "write") && nth%200 != 1 || len(copies) == bootedCopies {
			return
		}
		c := copied{step: fmt.Sprintf("%s %d", step, nth), disk: filepath.Join(dir, fmt.Sprintf("copy%d.raw", len(copies)))}
		require.NoError(t, vm.CopyDisk(t.Context(), disk, c.disk))
		copies = append(copies, c)
	})
	require.GreaterOrEqual(t, len(copies), 10)
	for _, c := range copies {
		t.Run(strings.ReplaceAll(c.step, " ", "-"), func(t *testing.T) {
			parallel(t)
			t.Cleanup(func() { require.NoError(t, os.Remove(c.disk)) })
			disk := overlay(t, c.disk)
			whole := wholeSlots(t, disk)
			m := start(t, vm.Options{Disk: disk})
			m.waitReady()
			s := m.state()
			t.Logf("%s: %s boots %s, whole are %v", c.step, s.Booted, m.version(), whole)
			require.Contains(t, whole, s.Booted)
			require.Empty(t, s.Quarantined)
		})
	}
}

type copied struct{ step, disk string }

// upgradeDisk upgrades the machine of a disk as if it ran, from here. At is called after every durable step with how often there was one of
// its name.
func upgradeDisk(t *testing.T, disk string, to pushed, at func(step string, nth int)) {
	t.Helper()
	loop, detach := attach(t, disk)
	defer detach()
	dir := t.TempDir()
	m := &upgrade.Machine{
		Root: "/", OEM: filepath.Join(dir, "oem"), Run: filepath.Join(dir, "run"),
		RecoveryDevice: loop + "p4", StateDevice: loop + "p5", PersistentDevice: loop + "p6",
	}
	require.NoError(t, os.Mkdir(m.OEM, 0o755))
	require.NoError(t, os.Mkdir(m.Run, 0o755))
	require.NoError(t, unix.Mount(loop+"p3", m.OEM, "ext4", 0, ""))
	defer func() { require.NoError(t, unix.Unmount(m.OEM, 0)) }()
	env, err := grub.ReadEnv(filepath.Join(m.OEM, "grubenv"))
	require.NoError(t, err)
	require.Len(t, env.Good, 1)
	boot, err := json.Marshal(upgrade.Boot{Slot: upgrade.Active, Image: env.Good[0], StateDevice: m.StateDevice})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(m.Run, "boot.json"), boot, 0o600))

	registry := httptest.NewServer(images.handler)
	defer registry.Close()
	source, err := upgradeimage.Parse(to.at(registry.Listener.Addr().String()))
	require.NoError(t, err)
	img, err := source.Open(t.Context(), upgradeimage.Options{Insecure: true, Cache: filepath.Join(dir, "cache")})
	require.NoError(t, err)
	defer img.Close()
	seen := map[string]int{}
	done, err := m.Upgrade(t.Context(), img, upgrade.Options{Step: func(step string) {
		seen[step]++
		at(step, seen[step])
	}})
	require.NoError(t, err)
	require.Equal(t, to.id, done.ID)
}

// wholeSlots names active and passive, in that order, if a machine that is off has them with each file as its image says. They are read
// here, from a copy: mounting writes, and an emulated machine hashes for most of a minute.
func wholeSlots(t *testing.T, disk string) (whole []string) {
	t.Helper()
	raw := disk + ".raw"
	defer os.Remove(raw)
	require.NoError(t, vm.Flatten(t.Context(), disk, raw))
	loop, detach := attach(t, raw)
	defer detach()
	dir := t.TempDir()
	require.NoError(t, unix.Mount(loop+"p5", dir, "ext4", 0, ""))
	defer func() { require.NoError(t, unix.Unmount(dir, 0)) }()
	for _, slot := range []string{upgrade.Active, upgrade.Passive} {
		if err := upgrade.VerifySlot(t.Context(), filepath.Join(dir, upgrade.SlotFile(slot))); err != nil {
			t.Logf("%s: %v", slot, err)
			continue
		}
		whole = append(whole, slot)
	}
	return whole
}

// attach gives the partitions of a raw disk the names loop + "p1" and so on, until detach.
func attach(t *testing.T, disk string) (loop string, detach func()) {
	t.Helper()
	loop = command(t, "losetup", "-f", "--show", disk)
	command(t, "partx", "-a", loop) // the kernel of the tests' machine may not read partition tables
	return loop, func() {
		command(t, "partx", "-d", loop)
		command(t, "losetup", "-d", loop)
	}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return strings.TrimSpace(string(out))
}
