package vm

import (
	"io"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestASegmentIsOfItsOwnAndGoesWithItsDescriptor(t *testing.T) {
	before, err := os.ReadDir("/sys/class/net")
	require.NoError(t, err)
	n, err := NewNetwork(t.Context())
	require.NoError(t, err)
	defer n.Close()
	l, err := n.Listen(t.Context(), 0)
	require.NoError(t, err)
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "from the host\n")
			_ = c.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	out, err := n.Command(t.Context(), "bash", "-c", "cat </dev/tcp/"+Host.String()+"/"+port).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "from the host\n", string(out))

	tap, err := n.addTap()
	require.NoError(t, err)
	_, err = n.handle.LinkByName(tap)
	require.NoError(t, err)
	n.removeTap(tap)
	_, err = n.handle.LinkByName(tap)
	require.Error(t, err)

	after, err := os.ReadDir("/sys/class/net")
	require.NoError(t, err)
	require.Len(t, after, len(before), "nothing of it is in the namespace of the host")
	_, ok := n.Address("52:54:00:4d:55:01")
	require.False(t, ok)
}
