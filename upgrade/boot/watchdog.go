package boot

import (
	"context"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// watchdogTimeout in seconds: a step that takes longer is a hang, and so is a PID 1 that has not opened it by then.
const watchdogTimeout = 60

// watchdog resets the machine when it is not pinged. nil is none.
type watchdog struct {
	file  *os.File
	pings atomic.Int64
}

func openWatchdog(logf func(string, ...any)) *watchdog {
	const device = "/dev/watchdog"
	if _, err := os.Stat(device); err != nil {
		if err := loadModule("/modules/" + softdog + ".ko"); err != nil {
			logf("no watchdog: %v", err)
			return nil
		}
	}
	f, err := os.OpenFile(device, os.O_WRONLY, 0) // os.File closes on exec
	if err != nil {
		logf("no watchdog: %v", err)
		return nil
	}
	w := &watchdog{file: f}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, watchdogTimeout); err != nil {
		logf("watchdog: set its timeout: %v", err) // it has one of its own
	}
	info, err := unix.IoctlGetWatchdogInfo(int(f.Fd()))
	switch {
	case err != nil:
		logf("watchdog: %v", err)
	case info.Options&unix.WDIOF_MAGICCLOSE == 0:
		// Closing stops it. It cannot stay open across exec either: PID 1 could not open it then.
		logf("watchdog: armed only until PID 1 starts")
	}
	w.ping()
	return w
}

func (w *watchdog) ping() {
	if w == nil {
		return
	}
	// A ping that fails leaves the watchdog to fire, which is its purpose.
	_ = unix.IoctlWatchdogKeepalive(int(w.file.Fd()))
	w.pings.Add(1)
}

// during pings while do runs, for no longer than the limit: what takes longer is a hang.
func (w *watchdog) during(limit time.Duration, do func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	ended := make(chan struct{})
	defer func() {
		cancel()
		<-ended
	}()
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				w.ping()
			}
		}
	}()
	return do()
}

// leave closes without the letter V: a watchdog with magic close goes on counting until PID 1 opens it.
func (w *watchdog) leave() {
	if w == nil {
		return
	}
	w.ping()
	w.file.Close()
}

// disarm is for a PID 1 that would not ping it.
func (w *watchdog) disarm() error {
	if w == nil {
		return nil
	}
	if _, err := w.file.WriteString("V"); err != nil {
		return err
	}
	return w.file.Close()
}
