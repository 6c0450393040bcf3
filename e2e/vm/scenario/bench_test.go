package scenario

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

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

// BenchmarkBoot splits a boot from power-on to the agent's start, for both firmwares. It runs once, whatever b.N says.
func BenchmarkBoot(b *testing.B) {
	for _, firmware := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		b.Run(string(firmware), func(b *testing.B) {
			m := start(b, vm.Options{Disk: overlay(b, formedDisk(b, false)), Firmware: firmware})
			m.waitReady()
			table := newTable()
			fmt.Fprintf(table, "phase\tends after\tseconds\n")
			lines, last := m.Console().Lines(), time.Duration(0)
			for _, p := range phases {
				at, ok := first(lines, p.ends)
				require.True(b, ok, "%s: no line matches %s", p.name, p.ends)
				fmt.Fprintf(table, "%s\t%.1f\t%.1f\n", p.name, at.Seconds(), (at - last).Seconds())
				last = at
			}
			b.ReportMetric(last.Seconds(), "s/boot")
			b.Logf("boot by %s, %s, %s:\n%s", firmware, m.Accelerator(), loadAverage(b), table)
		})
	}
}

func first(lines []vm.Line, pattern *regexp.Regexp) (time.Duration, bool) {
	for _, l := range lines {
		if pattern.MatchString(l.Text) {
			return l.At, true
		}
	}
	return 0, false
}

// BenchmarkUpgrade compares an upgrade from a registry on the segment with writing its slot file by dd, in the same machine.
func BenchmarkUpgrade(b *testing.B) {
	v2 := pushImage(b, "v2")
	m := start(b, vm.Options{Disk: overlay(b, formedDisk(b, false))})
	m.waitReady()
	table := newTable()
	fmt.Fprintf(table, "what\tMB written\tMB received\tseconds\n")
	measure := func(what, script string) {
		written, received := m.counters()
		ctx, cancel := context.WithTimeout(b.Context(), upgradeTime)
		defer cancel()
		begun := time.Now()
		out, err := m.Run(ctx, script+"; sync")
		require.NoError(b, err, out)
		took := time.Since(begun)
		writtenAfter, receivedAfter := m.counters()
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%.1f\n", what, float64(writtenAfter-written)/1e6, float64(receivedAfter-received)/1e6, took.Seconds())
	}
	const dir = "/run/initramfs/cos-state"
	measure("dd", "mount -o remount,rw "+dir+" && dd if="+dir+"/cOS/passive.img of="+dir+"/dd.img bs=1M conv=fsync status=none && rm "+dir+"/dd.img && mount -o remount,ro "+dir)
	measure("muster upgrade", upgradeCommand(v2))
	b.Logf("%s, %s:\n%s", m.Accelerator(), loadAverage(b), table)
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

type table struct {
	*tabwriter.Writer
	text *strings.Builder
}

func newTable() *table {
	var text strings.Builder
	return &table{tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight|tabwriter.Debug), &text}
}

func (t *table) String() string {
	_ = t.Flush() // into memory
	return t.text.String()
}

func loadAverage(b *testing.B) string {
	b.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	require.NoError(b, err)
	return "load " + strings.Fields(string(text))[0]
}
