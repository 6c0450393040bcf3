package k3s

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
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
	// Root is prepended to the machine's own paths; empty outside of tests.
	Root string
}

const (
	// configDir is read by K3s after mainConfig; both are the user's but for our
	// configFile.
	configDir  = "/etc/rancher/k3s/config.yaml.d"
	mainConfig = "/etc/rancher/k3s/config.yaml"
	configFile = configDir + "/50-muster.yaml"
	// pollStarting and pollReady pace the questions to the API server, pollLeft
	// that to systemd whether K3s runs that this agent did not start.
	pollStarting = time.Second
	pollReady    = 10 * time.Second
	pollLeft     = time.Minute
)

// Driver runs K3s. It implements Distro. Its methods may be called at the same
// time.
type Driver struct {
	opts     Options
	runner   runner
	binaries *binaries
	changed  p2p.Notifier
	cancel   context.CancelFunc
	watching sync.WaitGroup
	wake     chan struct{}

	// acting is held by who changes what runs, and guards compared and started:
	// whether what an earlier agent left running was looked at, and what K3s was
	// started with, as far as this agent knows.
	acting   sync.Mutex
	compared bool
	started  startedWith

	mu      sync.Mutex
	spec    *Spec
	version string
	state   State
	joining joining
	// turn counts what makes earlier observations worthless: a State from before
	// a wipe would speak of the old cluster.
	turn int
}

// New returns a driver that has not started anything. It takes over a K3s that
// an earlier agent left running.
func New(opts Options) *Driver { return newDriver(opts, defaultDirectTiming) }

func newDriver(opts Options, timing directTiming) *Driver {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Client == nil {
		opts.Client = http.DefaultClient
	}
	d := &Driver{opts: opts, wake: make(chan struct{}, 1)}
	d.binaries = &binaries{
		source: opts.Source, dir: opts.DownloadDir, root: opts.Root,
		download: downloader{client: opts.Client, stall: stallTimeout, max: maxBinary},
	}
	manager := opts.Manager
	if manager == ManagerAuto {
		manager = detect(opts.Root)
	}
	switch manager {
	case ManagerSystemd:
		d.runner = systemd{unitDir: opts.Root + "/run/systemd/system"}
	case ManagerOpenRC:
		d.runner = openrc{initDir: opts.Root + "/etc/init.d"}
	default:
		direct, err := newDirect(opts.RunDir, opts.LogDir, opts.Log, d.poke, timing)
		if err != nil {
			d.runner = broken{err}
		} else {
			d.runner = direct
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	d.watching.Go(func() { d.watch(ctx) })
	return d
}

// Apply implements Distro. When there is nothing to do it reads a few small
// files and asks the service manager once.
func (d *Driver) Apply(ctx context.Context, spec Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	d.acting.Lock()
	defer d.acting.Unlock()
	if err := checkForeign(d.opts.Root); err != nil {
		return err
	}
	if err := spec.checkDisk(d.opts.Root); err != nil {
		return err
	}
	binary, err := d.binaries.find(ctx)
	if err != nil {
		return err
	}
	version, err := d.binaries.version(ctx, binary)
	if err != nil {
		return err
	}
	args, err := spec.argv()
	if err != nil {
		return err
	}
	text, err := spec.render()
	if err != nil {
		return err
	}
	// The other role first: it must not meet the new configuration, were it to be
	// restarted in between.
	other := Server
	if spec.Role == Server {
		other = Agent
	}
	if err := d.runner.stop(ctx, other); err != nil {
		return err
	}
	if _, err := writeChanged(d.opts.Root+configFile, text, 0o600); err != nil {
		return fmt.Errorf("write K3s configuration: %w", err)
	}
	with, err := spec.startsWith()
	if err != nil {
		return err
	}
	starts, err := d.renew(ctx, spec, with)
	if err != nil {
		return err
	}
	d.mu.Lock()
	joins := d.joining.through(spec.Join)
	d.mu.Unlock()
	if !starts && joins.overdue(time.Now()) && !holdsCluster(d.opts.Root, spec.Role) {
		d.opts.Log.Warn("K3s joins nobody, it may be trying a server that is gone, it is restarted", "role", spec.Role, "server", spec.Join)
		if err := d.runner.stop(ctx, spec.Role); err != nil {
			return err
		}
		starts = true
	}
	p := process{role: spec.Role, binary: binary, args: args, env: spec.Env}
	if spec.Role == Server {
		p.remove = d.opts.Root + passwdFile
	}
	if err := d.runner.start(ctx, p); err != nil {
		return err
	}
	if starts {
		if err := d.note(with); err != nil {
			return err
		}
	}
	d.mu.Lock()
	before := d.spec
	if before != nil && (starts || before.Role != spec.Role) {
		d.forget()
	}
	d.joining = joins
	if starts || before == nil || before.Role != spec.Role {
		d.joining = joining{server: spec.Join, since: time.Now()}
	}
	d.spec, d.version = &spec, version
	former, epoch := d.formerToken(with), d.started.epoch
	changed := former != d.state.FormerToken || epoch != d.state.TokenEpoch
	d.state.FormerToken, d.state.TokenEpoch = former, epoch
	d.mu.Unlock()
	if changed {
		d.changed.Notify()
	}
	if before == nil || starts || before.Role != spec.Role || before.NodeName != spec.NodeName {
		d.poke()
	}
	if spec.Role == Server {
		// Last: what cannot be downloaded holds nothing else up.
		return d.deployKubeVIP(ctx, spec.KubeVIP)
	}
	return nil
}

func (d *Driver) deployKubeVIP(ctx context.Context, v *KubeVIP) error {
	var manifest []byte
	if v != nil && v.ManifestURL != "" {
		var err error
		if manifest, err = d.pinnedManifest(ctx, v.ManifestURL); err != nil {
			return fmt.Errorf("kubevip.manifest_url: %w", err)
		}
	}
	return writeKubeVIP(d.opts.Root, v, manifest)
}

// checkDisk refuses to start a server that would found a cluster of its own
// beside the one that there is: with nobody to join it has to go on with what it
// has (DESIGN §6, history S12).
func (s Spec) checkDisk(root string) error {
	if s.Role != Server || s.Join != "" || s.DatastoreEndpoint != "" || s.CAHash == "" {
		return nil
	}
	switch hash, err := caHash(root + serverCA); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("start K3s without a server to join: %w: it holds none", ErrForeignDisk)
	case err != nil:
		return fmt.Errorf("start K3s without a server to join: %w", err)
	case hash != s.CAHash:
		return fmt.Errorf("start K3s without a server to join: %w: its CA is %.12s, not %.12s", ErrForeignDisk, hash, s.CAHash)
	}
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
	d.acting.Lock()
	defer d.acting.Unlock()
	return d.stop(ctx)
}

func (d *Driver) stop(ctx context.Context) error {
	err := errors.Join(d.runner.stop(ctx, Server), d.runner.stop(ctx, Agent))
	if err == nil {
		d.started = startedWith{} // what starts next is noted anew
	}
	d.mu.Lock()
	d.spec = nil
	d.forget()
	d.mu.Unlock()
	d.changed.Notify()
	d.poke()
	return err
}

// forget drops what was observed. The caller holds mu.
func (d *Driver) forget() {
	d.turn++
	d.state = State{}
}

// Wipe implements Distro.
func (d *Driver) Wipe(ctx context.Context) (string, error) {
	d.acting.Lock()
	defer d.acting.Unlock()
	if err := d.stop(ctx); err != nil {
		return "", err
	}
	if err := endPods(ctx, d.opts.Root, d.opts.Log); err != nil {
		return "", fmt.Errorf("wipe K3s: %w", err)
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
	o := &observer{root: d.opts.Root, timeout: observeTimeout}
	defer o.close()
	for {
		d.mu.Lock()
		spec, version, turn := d.spec, d.version, d.turn
		d.mu.Unlock()
		var now State
		if spec == nil {
			now = d.left(ctx)
		} else {
			now = d.look(ctx, o, *spec)
			now.Version = version
		}
		d.mu.Lock()
		now.FormerToken, now.TokenEpoch = d.state.FormerToken, d.state.TokenEpoch // Apply's
		changed := now != d.state && turn == d.turn && ctx.Err() == nil
		if changed {
			d.state = now
		}
		d.mu.Unlock()
		if changed {
			d.changed.Notify()
		}
		pause := pollReady
		switch {
		case spec == nil:
			pause = pollLeft
		case !now.NodeReady:
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

// left is what can be said before the first Apply: whether an earlier agent left
// K3s running.
func (d *Driver) left(ctx context.Context) State {
	for _, role := range []Role{Server, Agent} {
		if running, err := d.runner.running(ctx, role); err == nil && running {
			return State{Running: true, Waiting: "K3s runs on while the agent finds out what this node is"}
		}
	}
	return State{}
}

func (d *Driver) look(ctx context.Context, o *observer, spec Spec) State {
	running, err := d.runner.running(ctx, spec.Role)
	switch {
	case err != nil:
		return State{Waiting: err.Error()}
	case !running:
		return State{Waiting: "K3s is not running; it is started again shortly, its log says why it ended"}
	}
	now := o.look(ctx, spec.Role, spec.NodeName)
	now.Running = true
	return now
}
