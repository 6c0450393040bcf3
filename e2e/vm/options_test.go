package vm

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestImpossibleMachinesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		options Options
		want    string
	}{
		"nothing to boot": {Options{}, "neither a disk nor a kernel"},
		"firmware":        {Options{Disk: "d", Firmware: "coreboot"}, `firmware is "coreboot"`},
		"MAC":             {Options{Disk: "d", MAC: "52:54"}, "MAC"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Start(t.Context(), c.options)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestTheCommandLineFollowsTheOptions(t *testing.T) {
	line := func(change func(*Options), a Accelerator, tap string) string {
		o, err := Options{Disk: "d.qcow2"}.withDefaults()
		require.NoError(t, err)
		change(&o)
		return strings.Join(arguments(o, a, paths{hook: "H", monitor: "M", agent: "A", vars: "V", code: "C", files: map[string]string{"opt/b": "2", "opt/a": "1"}}, tap), " ")
	}
	plain := line(func(*Options) {}, TCG, "")
	require.Contains(t, plain, "-no-reboot -accel tcg,thread=multi,tb-size=2047 -cpu max -machine pc -m 1024 -smp 2")
	require.Contains(t, plain, "-fw_cfg name=opt/muster/run,file=H -fw_cfg name=opt/a,file=1 -fw_cfg name=opt/b,file=2")
	require.Contains(t, plain, "-drive if=virtio,format=qcow2,file=d.qcow2")
	require.NotContains(t, plain, "-netdev")
	uefi := line(func(o *Options) { o.Firmware, o.MAC, o.MoreDisks = UEFI, "52:54:00:00:00:01", []string{"e.raw"} }, KVM, "tap1")
	require.Contains(t, uefi, "-accel kvm -cpu host -machine q35 -drive if=pflash,format=raw,readonly=on,file=C -drive if=pflash,format=raw,file=V")
	require.Contains(t, uefi, "-drive if=virtio,format=raw,file=e.raw")
	require.Contains(t, uefi, "ifname=tap1,script=no,downscript=no -device virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:00:00:01")
	require.Contains(t, line(func(o *Options) { o.Snapshot = "ready" }, TCG, ""), "-loadvm ready")
	require.NotContains(t, plain, "-rtc")
	require.Regexp(t, `-rtc base=20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d$`, line(func(o *Options) { o.ClockOffset = time.Hour }, TCG, ""))
}
