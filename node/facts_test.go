package node

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p"
)

func TestFactsOfAnyNodeFitIntoGossip(t *testing.T) {
	f := Facts{Hostname: strings.Repeat("n", 63), Reason: strings.Repeat("\u00fc", 10_000)}
	for i := range 1000 {
		f.LANs = append(f.LANs, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, byte(i >> 8), byte(i), 15: 1}), 64))
		f.LANs = append(f.LANs, f.LANs[0])
	}
	for i := range maxCandidates {
		f.VPN.Candidates = append(f.VPN.Candidates, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, byte(i), 15: 1}), 51820))
	}
	body, err := f.bounded().encode()
	require.NoError(t, err)
	require.Less(t, len(body), p2p.MaxFactSize)
	read, err := decodeFacts(p2p.Fact{Body: body})
	require.NoError(t, err)
	require.Len(t, read.LANs, maxLANs)
	require.Equal(t, strings.Repeat("\u00fc", maxReason/2), read.Reason)
}
