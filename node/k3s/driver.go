package k3s

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/muster-edge/muster/p2p"
)

// Options say where the driver works. Zero values take the defaults of a real
// machine.
type Options struct {
	Source Source
	// Manager is ManagerAuto to take what the machine runs under.
	Manager Manager
	// DownloadDir keeps downloaded binaries; RunDir what ends with the boot;
	// LogDir the log of a K3s that runs by itself.
	DownloadDir, RunDir, LogDir string
	Client                      *http.Client
	Log                         *slog.Logger
	// Root is prepended to K3s's own paths; empty outside of tests.
	Root string
}

const (
	// configFile is read by K3s after its config.yaml, which stays the user's.
	configFile = "/etc/rancher/k3s/config.yaml.d/50-muster.yaml"
	// pollStarting and pollReady pace the questions to the API server.
	pollStarting = time.Second
	pollReady    = 10 * time.Second
)

// Driver runs K3s. It implements Distro.
type Driver struct {
	opts     Options
	runner   runner
	changed  p2p.Notifier
	cancel   context.CancelFunc
	watching sync.WaitGroup
	wake     chan struct{}

	mu      sync.Mutex
	spec    *Spec
	version string
	state   State
}

// New returns a driver that has not started anything.
func New(opts Options) *Driver {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Client == nil {
		opts.Client = http.DefaultClient
	}
	d := &Driver{opts: opts, wake: make(chan struct{}, 1)}
	manager := opts.Manager
	if manager == ManagerAuto {
		manager = detect()
	}
	switch manager {
	case ManagerSystemd:
		d.runner = systemd{unitDir: "/run/systemd/system"}
	case ManagerOpenRC:
		d.runner = openrc{initDir: "/etc/init.d"}
	default:
		d.runner = newDirect(opts.RunDir, opts.LogDir, opts.Log, d.poke)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	d.watching.Go(func() { d.watch(ctx) })
	return d
}

// Apply implements Distro.
func (d *Driver) Apply(ctx context.Context, spec Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	binary, err := d.opts.Source.find(ctx, d.opts.DownloadDir, d.opts.Client)
	if err != nil {
		return err
	}
	text, err := spec.render()
	if err != nil {
		return err
	}
	path := d.opts.Root + configFile
	if current, err := os.ReadFile(path); err != nil || string(current) != string(text) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write K3s configuration: %w", err)
		}
		if err := p2p.WriteFile(path, text, 0o600); err != nil {
			return fmt.Errorf("write K3s configuration: %w", err)
		}
	}
	d.mu.Lock()
	known := d.version
	d.mu.Unlock()
	if known == "" {
		if known, err = version(ctx, binary); err != nil {
			return err
		}
	}
	other := Server
	if spec.Role == Server {
		other = Agent
	}
	if running, err := d.runner.running(ctx, other); err == nil && running {
		if err := d.runner.stop(ctx); err != nil {
			return err
		}
	}
	if err := d.runner.start(ctx, process{role: spec.Role, binary: binary, args: spec.Args, env: spec.Env}); err != nil {
		return err
	}
	d.mu.Lock()
	d.spec, d.version = &spec, known
	d.mu.Unlock()
	d.poke()
	return nil
}

// State implements Distro.
func (d *Driver) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// Changed implements Distro.
func (d *Driver) Changed() <-chan struct{} { return d.changed.Changed() }

// Stop implements Distro.
func (d *Driver) Stop(ctx context.Context) error {
	d.mu.Lock()
	d.spec = nil
	d.mu.Unlock()
	err := d.runner.stop(ctx)
	d.poke()
	return err
}

// Wipe implements Distro.
func (d *Driver) Wipe(ctx context.Context) (string, error) {
	if err := d.Stop(ctx); err != nil {
		return "", err
	}
	return wipe(d.opts.Root, time.Now())
}

// Close implements Distro.
func (d *Driver) Close() error {
	d.cancel()
	d.watching.Wait()
	return d.runner.close()
}

// poke makes watch look now.
func (d *Driver) poke() {
	select {
	case d.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func (d *Driver) watch(ctx context.Context) {
	o := &observer{root: d.opts.Root}
	defer o.close()
	for {
		d.mu.Lock()
		spec, was := d.spec, d.state
		known := d.version
		d.mu.Unlock()
		var now State
		if spec != nil {
			running, err := d.runner.running(ctx, spec.Role)
			switch {
			case err != nil:
				now.Waiting = err.Error()
			case !running:
				now.Waiting = "K3s is not running; it is started again shortly, its log says why it ended"
			default:
				now = o.look(ctx, spec.Role, spec.NodeName)
			}
			now.Running = running
			now.Version = known
		}
		if now != was && ctx.Err() == nil {
			d.mu.Lock()
			d.state = now
			d.mu.Unlock()
			d.changed.Notify()
		}
		pause := pollReady
		if spec != nil && !now.NodeReady {
			pause = pollStarting
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-d.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
