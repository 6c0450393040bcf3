package node

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/node/config"
)

func TestARelayNeedsATokenAndADirectoryOfItsOwn(t *testing.T) {
	cfg := &config.Config{P2P: config.P2P{DisableDHT: true}}
	require.ErrorContains(t, RunRelay(t.Context(), RelayOptions{Config: cfg, StateDir: t.TempDir()}), "p2p.network_token")

	token := testToken(t)
	cfg.P2P.NetworkToken = config.Secret(token)
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	ready, ended := make(chan string, 1), make(chan error, 1)
	opts := RelayOptions{Config: cfg, StateDir: dir, Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Ready: func(id string) { ready <- id }}
	go func() { ended <- RunRelay(ctx, opts) }()
	first := <-ready
	require.ErrorIs(t, RunRelay(t.Context(), opts), ErrRunning)
	stop()
	require.NoError(t, <-ended)

	ctx, stop = context.WithCancel(t.Context())
	go func() { ended <- RunRelay(ctx, opts) }()
	require.Equal(t, first, <-ready, "its identity stays")
	stop()
	require.NoError(t, <-ended)
}
