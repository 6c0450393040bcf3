package front_test

import (
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/k3slab/front"
)

func listen(t *testing.T) *front.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := front.New(l)
	t.Cleanup(func() { f.Close() })
	return f
}

// greet accepts one connection and writes who answered.
func greet(t *testing.T, l net.Listener, name string) {
	t.Helper()
	conn, err := l.Accept()
	require.NoError(t, err)
	_, err = io.WriteString(conn, name)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}

func dial(t *testing.T, f *front.Listener) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", f.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

func answer(t *testing.T, conn net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(conn)
	require.NoError(t, err)
	return string(b)
}

func TestThePortChangesHandsOnce(t *testing.T) {
	f := listen(t)
	first := dial(t, f)
	greet(t, f.Early(), "early")
	require.Equal(t, "early", answer(t, first))

	f.HandOver()
	waiting := dial(t, f) // nobody accepts yet: the connection must wait, not fail
	require.NoError(t, f.Early().Close())
	greet(t, f, "late")
	require.Equal(t, "late", answer(t, waiting))
}

func TestClosingEndsBothSides(t *testing.T) {
	f := listen(t)
	require.NoError(t, f.Close())
	_, err := f.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = f.Early().Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestClosingTheEarlySideKeepsTheSocket(t *testing.T) {
	f := listen(t)
	require.NoError(t, f.Early().Close())
	_, err := f.Early().Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	f.HandOver()
	conn := dial(t, f)
	greet(t, f, "late")
	require.Equal(t, "late", answer(t, conn))
}

func TestTheAddressIsTheSocketsOwn(t *testing.T) {
	f := listen(t)
	require.IsType(t, &net.TCPAddr{}, f.Addr(), "kube-apiserver takes no other kind")
	require.Equal(t, f.Addr(), f.Early().Addr())
}
