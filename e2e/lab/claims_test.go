package lab

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const claimsElsewhere = "claims-elsewhere"

// init is where a process still runs on its first thread alone.
func init() {
	if len(os.Args) < 2 || os.Args[1] != claimsElsewhere {
		return
	}
	gone, seen := make(chan struct{}), make(chan error)
	started := make(chan struct{})
	go func() {
		runtime.LockOSThread() // this thread is older than the other namespace
		close(started)
		<-gone
		name := fmt.Sprintf("%s7/%d", claimPrefix, os.Getpid())
		socket, err := bindClaim(name)
		if err == nil {
			defer socket.Close()
			var claims []claim
			if claims, err = readClaims(); err == nil && !slices.ContainsFunc(claims, func(c claim) bool { return c.socket == name }) {
				err = fmt.Errorf("%s is not among %v", name, claims)
			}
		}
		seen <- err
	}()
	<-started
	err := unix.Unshare(unix.CLONE_NEWNET)
	close(gone)
	if err == nil {
		err = <-seen
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A lab's thread that went into a node's namespace never comes back, and may be the process's first one.
func TestClaimsAreSeenWhenTheFirstThreadIsElsewhere(t *testing.T) {
	out, err := exec.Command("/proc/self/exe", claimsElsewhere).CombinedOutput()
	require.NoError(t, err, string(out))
}
