package systemd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/muster-edge/muster/node/k3s"
)

// TestMain is also what runs in the container: the driver, one process for each
// verb, which is an agent that restarts all the time; and a K3s.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "driver":
		if err := drive(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "k3s":
		fakeK3s(os.Args[1:])
	case "containerd-shim-runc-v2":
		time.Sleep(time.Hour)
	default:
		os.Exit(m.Run())
	}
}

// drive does what a verb says and prints the state that comes of it.
func drive(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	d := k3s.New(k3s.Options{Source: k3s.Source{Path: "/shared/k3s"}, RunDir: "/run/muster"})
	defer d.Close()
	var err error
	var kept string
	running := true
	switch args[0] {
	case "apply":
		var spec k3s.Spec
		if err := json.Unmarshal([]byte(args[1]), &spec); err != nil {
			return err
		}
		err = d.Apply(ctx, spec)
	case "stop":
		err, running = d.Stop(ctx), false
	case "wipe":
		kept, err = d.Wipe(ctx)
		running = false
	case "look":
	}
	if err != nil {
		return err
	}
	for {
		changed := d.Changed()
		if s := d.State(); s.Running == running {
			return json.NewEncoder(os.Stdout).Encode(map[string]any{"State": s, "Kept": kept})
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%+v: %w", d.State(), ctx.Err())
		}
	}
}

// fakeK3s notes its start, leaves a shim behind, and tells systemd that it
// serves once /shared/serve exists.
func fakeK3s(args []string) {
	if args[0] == "--version" {
		fmt.Println("k3s version v1.36.3+k3s1 (abcdef12)")
		return
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	// K3s unpacks its programs there.
	shim := "/var/lib/rancher/k3s/data/hash/bin/containerd-shim-runc-v2"
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(shim), 0o755)
	}
	if _, there := os.Stat(shim); err == nil && there != nil {
		err = os.WriteFile(shim, self, 0o755)
	}
	child := exec.Command(shim)
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		panic(err)
	}
	note, err := json.Marshal(start{PID: os.Getpid(), Shim: child.Process.Pid, Args: args, Env: os.Environ()})
	if err != nil {
		panic(err)
	}
	f, err := os.OpenFile("/shared/starts", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.Write(append(note, '\n'))
	}
	if err != nil {
		panic(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	for {
		select {
		case <-term:
			return
		case <-tick.C:
		}
		if _, err := os.Stat("/shared/serve"); err == nil {
			if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
				panic(err)
			}
			tick.Stop()
		}
	}
}

// start is what the fake K3s notes of each start.
type start struct {
	PID, Shim int
	Args, Env []string
}
