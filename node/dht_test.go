package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/stretchr/testify/require"
)

func TestNodesThatOnlyADHTLeadsTogetherFoundASite(t *testing.T) {
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	kad, err := dht.New(t.Context(), h, dht.Mode(dht.ModeServer), dht.DisableAutoRefresh(), dht.BootstrapPeers())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, kad.Close()) })

	text := loopback(testToken(t), "", 2) + fmt.Sprintf("  dht_bootstrap: [%s/p2p/%s]\n", h.Addrs()[0], h.ID())
	a, b := newTestAgent(t, "n1", text), newTestAgent(t, "n2", text)
	a.start()
	b.start()
	// The DHT is looked at after 20 to 40 s without anybody.
	require.Eventually(t, func() bool {
		return a.phase().Phase == PhaseRunning && b.phase().Phase == PhaseRunning && a.status().Members == 2 && b.status().Members == 2
	}, 4*waitFor, 100*time.Millisecond)
	require.Equal(t, a.status().Site, b.status().Site)
}
