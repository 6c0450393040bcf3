package scenario

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/vm"
)

// A machine that runs puts another image on a second disk of its own; that disk then boots by itself, with both kinds of firmware.
func TestAnInstalledDiskBoots(t *testing.T) {
	t.Parallel()
	leave := takeRoom(t, 1)
	v2 := bare.push(t, "v2")
	dir, err := os.MkdirTemp(work, "install-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	second := filepath.Join(dir, "second.qcow2")
	require.NoError(t, vm.NewDisk(t.Context(), second, 6<<10))

	m := start(t, vm.Options{Name: "installer", Disk: overlay(t, formedDisk(t, bare)), MoreDisks: []string{second}})
	m.waitReady()
	install := "muster install --insecure --cmdline '" + emulatedCmdline + "' --source " + v2.ref()
	m.sh("cat >/run/site.yaml <<'E'\n" + siteConfig(t, 1, false) + "E")
	refused := func(command string, code int, pattern string) {
		out, err := m.try(command)
		var exit *vm.ExitError
		require.ErrorAs(t, err, &exit, "%s", out)
		require.Equal(t, code, exit.Code, exit.Output)
		require.Regexp(t, pattern, exit.Output)
	}
	refused(install+" --config /run/site.yaml", 2, "--device DISK")
	refused(install+" --config /run/site.yaml --device /dev/vda --yes", 4, "/dev/vda")
	refused(install+" --config /run/site.yaml --device /dev/vdb </dev/null", 2, "--yes")
	require.Contains(t, m.sh(install+" --config /run/site.yaml --device /dev/vdb --dry-run"), "COS_PERSISTENT")
	require.Empty(t, m.sh("lsblk -nro LABEL,PARTLABEL /dev/vdb | tr -d ' \\n'"), "a plan changes nothing")
	ctx, cancel := context.WithTimeout(t.Context(), installTime)
	defer cancel()
	begun := time.Now()
	out, err := m.Run(ctx, install+" --config /run/site.yaml --device /dev/vdb --yes 2>/dev/null")
	require.NoError(t, err)
	t.Logf("%s\nafter %s", out, time.Since(begun).Round(time.Second))
	installer := m.status().ID
	m.powerOff()
	leave()

	for _, firmware := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		t.Run(string(firmware), func(t *testing.T) {
			parallel(t)
			m := start(t, vm.Options{Disk: overlay(t, second), Firmware: firmware})
			m.waitReady()
			requireLayoutOf(t, m, "v2")
			require.NotEqual(t, installer, m.status().ID)
			require.Equal(t, v2.digest(), m.state().Slots["active"].Digest)
			m.verify()
		})
	}
}
