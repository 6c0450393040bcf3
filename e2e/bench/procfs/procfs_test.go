package procfs

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

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

func TestMemoryOfALiveProcess(t *testing.T) {
	memory, err := ReadMemory(os.Getpid())
	require.NoError(t, err)
	require.Positive(t, memory.RSS)
	require.LessOrEqual(t, memory.RSS, memory.Peak)

	const never = 1 << 30 // above the kernel's largest process ID
	_, err = ReadMemory(never)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func FuzzParsers(f *testing.F) {
	for _, name := range []string{"dev", "fib_trie", "status"} {
		f.Add(golden(f, name))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		// Whatever the content, each returns a result or an error.
		_, _ = ParseNetDev(content)
		_, _ = ParseLocalAddresses(content)
		_, _ = ParseMemory(content)
	})
}
