package scenario

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/section"
	"github.com/muster-edge/muster/e2e/vm"
)

// phases of a boot, each from the one before to the first line that matches.
var phases = []struct {
	name string
	ends *regexp.Regexp
}{
	{"firmware", regexp.MustCompile(`GNU GRUB`)},
	{"GRUB: hash, kernel, initrd", regexp.MustCompile(`Linux version`)},
	{"kernel", regexp.MustCompile(`\[muster-init `)},
	{"muster-init", regexp.MustCompile(`\[muster-init .*switching root`)},
	{"systemd, to the agent", regexp.MustCompile(`Started .*muster\.service`)},
}

const (
	// benchBoots is how often each firmware boots.
	benchBoots = 5
	// benchProcessors are those of its machines, which run alone.
	benchProcessors = 2
)

// BenchmarkBoot splits a boot from power-on to the agent's start, for both firmwares, and writes a section when MUSTER_BENCH_OUT names the
// file. It runs once, whatever b.N says.
func BenchmarkBoot(b *testing.B) {
	took := map[vm.Firmware][][]time.Duration{} // by phase, and in all
	var accelerator vm.Accelerator
	for _, firmware := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		took[firmware] = make([][]time.Duration, len(phases)+1)
		for range benchBoots {
			m := start(b, vm.Options{Name: "bench-" + string(firmware), CPUs: benchProcessors, Disk: overlay(b, formedDisk(b, whole)), Firmware: firmware})
			m.waitReady()
			lines, last := m.Console().Lines(), time.Duration(0)
			for i, p := range phases {
				at, ok := first(lines, p.ends)
				require.True(b, ok, "%s: no line matches %s", p.name, p.ends)
				took[firmware][i] = append(took[firmware][i], at-last)
				last = at
			}
			took[firmware][len(phases)] = append(took[firmware][len(phases)], last)
			accelerator = m.Accelerator()
			m.PowerCut()
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "## How long a machine takes to boot\n\n")
	fmt.Fprintf(&table, "From power-on to the agent's start, by the lines of the serial console: median of %d boots of one disk (95th percentile). %s.\n\n", benchBoots, about(b, accelerator))
	fmt.Fprintf(&table, "| phase | BIOS | UEFI |\n| --- | --- | --- |\n")
	for i := range len(phases) + 1 {
		name := "**in all**"
		if i < len(phases) {
			name = phases[i].name
		}
		fmt.Fprintf(&table, "| %s | %s | %s |\n", name, section.Spread(took[vm.BIOS][i]), section.Spread(took[vm.UEFI][i]))
	}
	write(b, "boot", table.String())
}

func first(lines []vm.Line, pattern *regexp.Regexp) (time.Duration, bool) {
	for _, l := range lines {
		if pattern.MatchString(l.Text) {
			return l.At, true
		}
	}
	return 0, false
}

// BenchmarkUpgrade compares an upgrade from a registry on the segment with writing its slot file by dd, in the same machine, and writes a
// section when MUSTER_BENCH_OUT names the file. It runs once, whatever b.N says.
func BenchmarkUpgrade(b *testing.B) {
	v2 := whole.push(b, "v2")
	m := start(b, vm.Options{CPUs: benchProcessors, Disk: overlay(b, formedDisk(b, whole))})
	m.waitReady()
	var table strings.Builder
	fmt.Fprintf(&table, "## What an upgrade costs beside writing the same slot with dd\n\n")
	fmt.Fprintf(&table, "In one machine, one after another, each until `sync` is back. The slot has %s MB, its image %s MB in the registry. %s.\n\n",
		m.sh("stat -c %s "+stateDir+"/cOS/passive.img | awk '{printf \"%.0f\", $1/1e6}'"), megabytes(layersSize(b)), about(b, m.Accelerator()))
	fmt.Fprintf(&table, "| what | MB written | MB received | seconds |\n| --- | --- | --- | --- |\n")
	measure := func(what, script string) {
		written, received := m.counters()
		ctx, cancel := context.WithTimeout(b.Context(), upgradeTime)
		defer cancel()
		begun := time.Now()
		out, err := m.Run(ctx, script+"; sync")
		require.NoError(b, err, out)
		took := time.Since(begun)
		writtenAfter, receivedAfter := m.counters()
		fmt.Fprintf(&table, "| %s | %s | %s | %.1f |\n", what, megabytes(writtenAfter-written), megabytes(receivedAfter-received), took.Seconds())
	}
	const at = stateDir + "/dd.img"
	measure("`dd bs=1M conv=fsync`, from slot to slot", "mount -o remount,rw "+stateDir+" && dd if="+stateDir+"/cOS/passive.img of="+at+" bs=1M conv=fsync status=none && rm "+at+" && mount -o remount,ro "+stateDir)
	measure("`muster upgrade` from the registry: pull, write, read back, swap", upgradeCommand(v2))
	write(b, "upgrade", table.String())
}

// stateDir is where a machine that runs has COS_STATE.
const stateDir = "/run/initramfs/cos-state"

func megabytes(n int64) string { return fmt.Sprintf("%.0f", float64(n)/1e6) }

// layersSize is what the layers of v1 take in a registry.
func layersSize(b *testing.B) (sum int64) {
	b.Helper()
	layers, err := image(b, whole.image(b).layout).Layers()
	require.NoError(b, err)
	for _, l := range layers {
		size, err := l.Size()
		require.NoError(b, err)
		sum += size
	}
	return sum
}

// counters are the bytes that the disk has taken and that the network has brought.
func (m *machine) counters() (written, received int64) {
	m.t.Helper()
	fields := strings.Fields(m.sh("awk '{print $7 * 512}' /sys/block/vda/stat; cat /sys/class/net/en*/statistics/rx_bytes"))
	require.Len(m.t, fields, 2)
	var numbers [2]int64
	for i, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		require.NoError(m.t, err)
		numbers[i] = n
	}
	return numbers[0], numbers[1]
}

// about is on what the figures were measured.
func about(b *testing.B, a vm.Accelerator) string {
	b.Helper()
	how := "Two virtual CPUs on KVM"
	if a == vm.TCG {
		how = "Two virtual CPUs, **emulated** (TCG): read the ratios, not the seconds"
	}
	text, err := os.ReadFile("/proc/loadavg")
	require.NoError(b, err)
	return how + "; load before " + strings.Fields(string(text))[0]
}

func write(b *testing.B, name, text string) {
	b.Helper()
	b.Logf("\n%s", text)
	if path := os.Getenv("MUSTER_BENCH_OUT"); path != "" {
		require.NoError(b, section.Write(path, name, text, "make bench-vm"))
	}
}
