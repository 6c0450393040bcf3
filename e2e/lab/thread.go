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

// InNetNS runs fn on a thread that is in the network namespace at path. Sockets and processes that fn makes stay there.
func InNetNS(path string, fn func() error) error {
	return onThread(func() error {
		ns, err := netns.GetFromPath(path)
		if err == nil {
			err = netns.Set(ns)
			_ = ns.Close() // only looked at
		}
		if err != nil {
			return fmt.Errorf("enter the network namespace %s: %w", path, err)
		}
		return fn()
	})
}
