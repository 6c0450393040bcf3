package host_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/k3slab/flags"
	"github.com/muster-edge/muster/e2e/k3slab/host"
)

func describe(t *testing.T, args ...string) (host.Host, error) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(config, nil, 0o600))
	o, err := flags.Parse(append([]string{"--config", config}, args...), func(string) string { return "" }, func(string) {})
	require.NoError(t, err)
	return host.Describe(o)
}

func TestTheCommandLineDescribesTheHost(t *testing.T) {
	h, err := describe(t, "--node-name=N1", "--node-ip=10.1.0.1,fd00::1", "--node-external-ip", "192.0.2.7", "--data-dir=/data/../k3s")
	require.NoError(t, err)
	require.Equal(t, host.Host{Name: "n1", IPs: []string{"10.1.0.1", "fd00::1"}, ExternalIPs: []string{"192.0.2.7"}, DataDir: "/k3s"}, h)
	require.Equal(t, "10.1.0.1", h.IP())
}

func TestADevicesAddressIsTheDefault(t *testing.T) {
	h, err := describe(t, "--flannel-iface=lo")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1", h.IP())
	name, err := os.Hostname()
	require.NoError(t, err)
	require.NotEmpty(t, name)
	require.NotEmpty(t, h.Name)
}

func TestWrongHostsAreRefused(t *testing.T) {
	for name, args := range map[string][]string{
		"not an address": {"--node-ip=n1"},
		"no such device": {"--flannel-iface=no-such-device"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := describe(t, args...)
			require.Error(t, err)
		})
	}
}

func TestAPauseEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		require.NoError(t, host.Pause(t.Context(), time.Hour))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, host.Pause(ctx, time.Hour), context.DeadlineExceeded)
	})
}
