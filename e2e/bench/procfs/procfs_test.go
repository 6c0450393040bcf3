package procfs

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func golden(t testing.TB, name string) []byte {
	content, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return content
}

func TestNetDevGivesBothDirectionsOfEachLink(t *testing.T) {
	links, err := ParseNetDev(golden(t, "dev"))
	require.NoError(t, err)
	require.Equal(t, map[string]Traffic{
		"lo":   {},
		"eth0": {Received: 1042253, Sent: 1188980972},
	}, links)
	require.EqualValues(t, 1042253+1188980972, links["eth0"].Total())
}

func TestNetDevWithOtherColumnsIsRefused(t *testing.T) {
	_, err := ParseNetDev([]byte("  eth0: 1 2 3\n"))
	require.ErrorContains(t, err, `link "eth0" has 3 counters, want 16`)
	_, err = ParseNetDev([]byte("  eth0: x 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"))
	require.ErrorContains(t, err, "parse /proc/net/dev")
}

func TestLocalAddressesAreNamedOnceAndWithoutLoopback(t *testing.T) {
	addresses, err := ParseLocalAddresses(golden(t, "fib_trie"))
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.1.0.3"), netip.MustParseAddr("192.168.80.1")}, addresses)
}

func TestLocalAddressThatIsNoneIsRefused(t *testing.T) {
	_, err := ParseLocalAddresses([]byte("/32 host LOCAL\n"))
	require.ErrorContains(t, err, "parse /proc/net/fib_trie")
}

func TestMemoryIsInBytes(t *testing.T) {
	memory, err := ParseMemory(golden(t, "status"))
	require.NoError(t, err)
	require.Equal(t, Memory{RSS: 1628 * 1024, Peak: 1740 * 1024}, memory)
}

func TestMemoryOfKernelThreadIsRefused(t *testing.T) {
	_, err := ParseMemory([]byte("Name:\tkthreadd\nThreads:\t1\n"))
	require.ErrorContains(t, err, "parse /proc/PID/status: no Vm")
	_, err = ParseMemory([]byte("Name:\tx\nVmHWM:\t1 MB\nVmRSS:\t1 MB\n"))
	require.ErrorContains(t, err, "want a number of kB")
}

func TestStatIsReadPastBracketsInTheName(t *testing.T) {
	stat, err := ParseStat(golden(t, "stat"))
	require.NoError(t, err)
	require.Equal(t, Stat{Parent: 10121, Start: 210976 * 10 * time.Millisecond}, stat)
}

func TestBrokenStatIsRefused(t *testing.T) {
	for name, content := range map[string]string{
		"no name":      "1 cat R 1",
		"too short":    "1 (cat) R 1 2 3",
		"not a parent": "1 (cat) R x 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22",
		"not a start":  "1 (cat) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x 20 21 22",
	} {
		_, err := ParseStat([]byte(content))
		require.ErrorContains(t, err, "parse /proc/PID/stat", name)
	}
}

func TestUptime(t *testing.T) {
	uptime, err := ParseUptime([]byte("2044.51 3612.07\n"))
	require.NoError(t, err)
	require.Equal(t, 2044510*time.Millisecond, uptime.Round(time.Millisecond))
	_, err = ParseUptime([]byte("soon\n"))
	require.Error(t, err)
	_, err = ParseUptime([]byte("x y\n"))
	require.Error(t, err)
}

func TestStartTimeIsWhenTheProcessWasStarted(t *testing.T) {
	before := time.Now()
	cmd := exec.Command("sleep", "60")
	require.NoError(t, cmd.Start())
	after := time.Now()
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
	})
	started, err := StartTime(cmd.Process.Pid)
	require.NoError(t, err)
	const resolution = 20 * time.Millisecond
	require.WithinRange(t, started, before.Add(-resolution), after.Add(resolution))

	family, err := Family(os.Getpid())
	require.NoError(t, err)
	require.Equal(t, os.Getpid(), family[0])
	require.Contains(t, family[1:], cmd.Process.Pid)

	memory, err := ReadMemory(os.Getpid())
	require.NoError(t, err)
	require.LessOrEqual(t, memory.RSS, memory.Peak)

	arguments, err := Arguments(os.Getpid())
	require.NoError(t, err)
	require.Equal(t, os.Args, arguments)
}

func TestProcessThatIsGoneIsAnError(t *testing.T) {
	const never = 1 << 30 // above the kernel's largest process ID
	_, err := StartTime(never)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = ReadMemory(never)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Arguments(never)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func FuzzParsers(f *testing.F) {
	for _, name := range []string{"dev", "fib_trie", "status", "stat"} {
		f.Add(golden(f, name))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		// Whatever the content, each returns a result or an error.
		_, _ = ParseNetDev(content)
		_, _ = ParseLocalAddresses(content)
		_, _ = ParseMemory(content)
		_, _ = ParseStat(content)
		_, _ = ParseUptime(content)
	})
}
