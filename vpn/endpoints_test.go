package vpn

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func endpoints(texts ...string) []netip.AddrPort {
	var all []netip.AddrPort
	for _, s := range texts {
		all = append(all, netip.MustParseAddrPort(s))
	}
	return all
}

func TestCandidatesOnASharedNetworkComeFirst(t *testing.T) {
	local := []netip.Prefix{netip.MustParsePrefix("192.168.1.7/24")}
	require.Equal(t,
		endpoints("192.168.1.9:1", "172.16.0.9:1", "[2001:db8::9]:1"),
		Prefer(endpoints("172.16.0.9:1", "192.168.1.9:1", "[2001:db8::9]:1"), local))
	require.Empty(t, Prefer(nil, local))
}

func TestEveryCandidateGetsItsTurnAgainAndAgain(t *testing.T) {
	w := &endpointWalk{}
	require.True(t, w.offer(endpoints("10.0.0.1:1", "10.0.0.2:1")))
	var seen []string
	for range 5 {
		e, _ := w.next()
		seen = append(seen, e.String())
	}
	require.Equal(t, []string{"10.0.0.1:1", "10.0.0.2:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.1:1"}, seen)
}

func TestNewCandidatesKeepTheOneInUse(t *testing.T) {
	w := &endpointWalk{}
	w.offer(endpoints("10.0.0.1:1", "10.0.0.2:1"))
	w.next()
	w.next()
	require.False(t, w.offer(endpoints("10.0.0.3:1", "10.0.0.2:1")))
	e, ok := w.current()
	require.True(t, ok)
	require.Equal(t, "10.0.0.2:1", e.String())
	require.True(t, w.offer(endpoints("10.0.0.4:1")), "the one in use is gone")
	e, _ = w.current()
	require.Equal(t, "10.0.0.4:1", e.String())
	require.False(t, w.offer(nil))
	_, ok = w.current()
	require.False(t, ok)
}
