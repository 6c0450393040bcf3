package p2p

import (
	"testing"

	"github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

func TestTCPWaitsOnlyWhereThereIsQUIC(t *testing.T) {
	quic := multiaddr.StringCast("/ip4/192.168.1.2/udp/4847/quic-v1")
	tcp := multiaddr.StringCast("/ip4/192.168.1.2/tcp/4847")

	both := quicFirst([]multiaddr.Multiaddr{tcp, quic})
	require.Len(t, both, 2)
	for _, a := range both {
		if a.Addr.Equal(quic) {
			require.Zero(t, a.Delay)
		} else {
			require.GreaterOrEqual(t, a.Delay, tcpPatience)
		}
	}
	alone := quicFirst([]multiaddr.Multiaddr{tcp})
	require.Len(t, alone, 1)
	require.Zero(t, alone[0].Delay)
}
