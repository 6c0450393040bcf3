package lan

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Inside runs fn on a thread of this process that has entered the network namespace at path (/run/netns/NAME or
// /proc/PID/ns/net), so that what the kernel shows per namespace (/proc/thread-self/net, netlink) can be read ten
// times a second from twenty nodes without starting a program for each look. It returns fn's error, or why the
// namespace could not be entered.
func Inside(path string, fn func() error) error {
	result := make(chan error, 1)
	go func() { result <- aside(path, fn) }()
	return <-result
}

func aside(path string, fn func() error) error {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// The main thread stands for the whole process in /proc and never ends: moved into a node's namespace, it would
		// be found there, and killed, when the node is removed. While this goroutine holds it, another one cannot get it.
		defer runtime.UnlockOSThread()
		return Inside(path, fn)
	}
	// Never unlocked: when the goroutine ends, the runtime throws the thread away together with its namespace.
	return enter(path, fn)
}

func enter(path string, fn func() error) error {
	namespace, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer namespace.Close()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return fn()
}
