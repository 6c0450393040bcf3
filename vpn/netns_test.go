package vpn

import (
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace of this test's own. A thread that was in it
// is thrown away: locked and never unlocked, so that no other test runs there.
type namespace struct{ handle netns.NsHandle }

// do runs fn in the namespace and waits for it. Sockets and devices that fn
// makes stay in the namespace, goroutines that it starts do not.
func (n namespace) do(t *testing.T, fn func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(n.handle); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	require.NoError(t, <-done)
}

func newNamespace(t *testing.T) namespace {
	t.Helper()
	require.Zero(t, os.Getuid(), "network namespaces need root")
	made := make(chan namespace, 1)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			failed <- err
			return
		}
		handle, err := netns.Get()
		if err != nil {
			failed <- err
			return
		}
		made <- namespace{handle}
	}()
	select {
	case err := <-failed:
		require.NoError(t, err)
	case n := <-made:
		t.Cleanup(func() { require.NoError(t, n.handle.Close()) })
		n.do(t, func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(lo)
		})
		return n
	}
	panic("unreachable")
}
