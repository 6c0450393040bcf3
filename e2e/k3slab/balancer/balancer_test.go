package balancer_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/k3slab/balancer"
)

// server answers every connection with its name and holds it open until told.
func server(t *testing.T, name string) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, name)
			conn.Close()
		}
	}()
	stop = func() { l.Close(); <-done }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func start(t *testing.T, first, state string) *balancer.Balancer {
	t.Helper()
	b, err := balancer.Listen("127.0.0.1:0", first, state)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

func ask(t *testing.T, b *balancer.Balancer) string {
	t.Helper()
	conn, err := net.Dial("tcp", b.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	return string(answer)
}

func TestTheLossOfAServerIsSurvivedAndRemembered(t *testing.T) {
	one, stopOne := server(t, "one")
	two, _ := server(t, "two")
	state := filepath.Join(t.TempDir(), "servers.json")
	b := start(t, one, state)
	require.NoError(t, b.Update([]string{two, one}))
	require.Equal(t, []string{one, two}, b.Servers(), "the server in use stays first")
	require.Equal(t, "one", ask(t, b))
	stopOne()
	require.Equal(t, "two", ask(t, b))
	require.Equal(t, two, b.Servers()[0])

	require.NoError(t, b.Close())
	require.Equal(t, "two", ask(t, start(t, one, state)), "after a restart too")
}

func TestAnEmptyListChangesNothing(t *testing.T) {
	one, _ := server(t, "one")
	b := start(t, one, filepath.Join(t.TempDir(), "servers.json"))
	require.NoError(t, b.Update(nil))
	require.Equal(t, "one", ask(t, b))
}

func TestAListWithoutTheServerInUseDoesNotCutTheNodeOff(t *testing.T) {
	one, _ := server(t, "one")
	two, stopTwo := server(t, "two")
	stopTwo()
	b := start(t, one, filepath.Join(t.TempDir(), "servers.json"))
	require.NoError(t, b.Update([]string{two}))
	require.Equal(t, "one", ask(t, b))
	require.NoError(t, b.Update([]string{one}))
	require.Equal(t, []string{one}, b.Servers())
}

func TestADamagedStateFileIsIgnored(t *testing.T) {
	one, _ := server(t, "one")
	state := filepath.Join(t.TempDir(), "servers.json")
	require.NoError(t, os.WriteFile(state, []byte("{"), 0o600))
	require.Equal(t, "one", ask(t, start(t, one, state)))
}

func TestCloseEndsOpenConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, never answers
	require.NoError(t, err)
	defer l.Close()
	b := start(t, l.Addr().String(), filepath.Join(t.TempDir(), "servers.json"))
	conn, err := net.Dial("tcp", b.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, b.Close())
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
}
