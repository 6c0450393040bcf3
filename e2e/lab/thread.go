package lab

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// onThread runs fn on a thread of its own that ends with it, so that fn may move it into other namespaces.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// Go cannot end the first thread; it would be kept, and hold the namespaces as long as the process lives. While this
			// goroutine has it, fn gets another.
			done <- onThread(fn)
			runtime.UnlockOSThread()
			return
		}
		// Never unlocked: that is what ends the thread with the goroutine.
		done <- fn()
	}()
	return <-done
}

// inNetNS runs fn on a thread that is in the network namespace of pid. Sockets and processes that fn makes stay there.
func inNetNS(pid int, fn func() error) error {
	return onThread(func() error {
		ns, err := netns.GetFromPid(pid)
		if err == nil {
			err = netns.Set(ns)
			_ = ns.Close() // only looked at
		}
		if err != nil {
			return fmt.Errorf("enter the network namespace of process %d: %w", pid, err)
		}
		return fn()
	})
}
