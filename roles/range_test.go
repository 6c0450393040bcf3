package roles

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestAddressesAreNumberedFromOne(t *testing.T) {
	for _, test := range []struct {
		prefix string
		n      uint64
		addr   string
	}{
		{"10.1.0.0/16", 1, "10.1.0.1"},
		{"10.1.0.0/16", 255, "10.1.0.255"},
		{"10.1.0.0/16", 256, "10.1.1.0"},
		{"10.1.0.0/16", 65534, "10.1.255.254"},
		{"10.1.0.77/16", 2, "10.1.0.2"},
		{"10.9.0.8/29", 6, "10.9.0.14"},
		{"192.168.208.0/20", 4094, "192.168.223.254"},
	} {
		addr, err := AddrForCounter(netip.MustParsePrefix(test.prefix), test.n)
		require.NoError(t, err)
		require.Equal(t, test.addr, addr.String())
	}
}

func TestExhaustedRangeIsAReason(t *testing.T) {
	for prefix, n := range map[string]uint64{"10.1.0.0/16": 65535, "10.9.0.8/29": 7, "10.9.0.0/31": 1, "10.9.0.0/32": 1} {
		_, err := AddrForCounter(netip.MustParsePrefix(prefix), n)
		require.ErrorIs(t, err, ErrRangeExhausted, prefix)
	}
	_, err := AddrForCounter(netip.MustParsePrefix("10.1.0.0/16"), 0)
	require.ErrorContains(t, err, "numbers start at 1")
	_, err = AddrForCounter(netip.MustParsePrefix("fd00::/64"), 1)
	require.ErrorContains(t, err, "not IPv4")
	_, err = AddrForCounter(netip.Prefix{}, 1)
	require.ErrorContains(t, err, "not IPv4")
}

func TestEveryAddressOfARangeIsGivenOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := netip.AddrFrom4([4]byte{10, rapid.Byte().Draw(t, "b"), rapid.Byte().Draw(t, "c"), rapid.Byte().Draw(t, "d")})
		prefix, err := base.Prefix(rapid.IntRange(20, 29).Draw(t, "bits"))
		require.NoError(t, err)
		last := prefix.Addr()
		for n := uint64(1); n <= capacity(prefix); n++ {
			addr, err := AddrForCounter(prefix, n)
			require.NoError(t, err)
			require.True(t, prefix.Contains(addr))
			require.Equal(t, last.Next(), addr)
			last = addr
		}
		require.False(t, prefix.Contains(last.Next().Next()), "only the broadcast address is left")
	})
}

func TestRangesToChooseFromArePossible(t *testing.T) {
	require.Equal(t, "10.1.0.0/16", meshRanges[0].String())
	for i, r := range meshRanges {
		require.NoError(t, checkRange(r, MaxFounders))
		_, clash := overlap(r, meshRanges[:i])
		require.False(t, clash, "%s overlaps another", r)
	}
}
