// Package node is the agent: it reads the node's configuration, finds or founds
// the site, and keeps this node what the site decided it should be.
//
// It observes, publishes facts, follows decisions and acts. Each reconciler
// owns one thing and can say what it waits for; the agent itself only wires
// them together and knows no more than the order in which they may begin.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/vpn"
)

// Version is set by the linker.
var Version = "dev"

// FeatureLevel is the highest level of records and wire formats that this
// version knows.
const FeatureLevel = 1

// Places on a node.
const (
	// DefaultStateDir holds everything that makes a node itself, and is wiped as
	// one.
	DefaultStateDir = "/usr/local/.muster"
	// DefaultRunDir ends with the boot.
	DefaultRunDir = "/run/muster"
	// DefaultPort is the one port, UDP and TCP, that the mesh's control plane
	// listens on.
	DefaultPort = 4847
)

// Options are what main gives the agent.
type Options struct {
	Config *config.Config
	// Warnings of reading the configuration, for status.
	Warnings []string
	StateDir string
	RunDir   string
	// OEMDir is the partition that a reset keeps; empty where there is none.
	OEMDir string
	// Port is UDP and TCP; 0 takes one that is free for both.
	Port int
	Log  *slog.Logger

	// Supervisor is told when the agent is ready and in which phase it is.
	Supervisor Supervisor

	// Hostname stands for the machine's own name, which is then neither asked of
	// the kernel nor changed. Tests run several nodes on one machine.
	Hostname string
	// Listen are the addresses of the mesh's control plane, all of the machine's
	// if empty.
	Listen []netip.Addr
	// Slots is what this machine was started from; nil, or without a boot from a
	// slot, nothing is judged.
	Slots Slots
	// Reboot restarts the machine; nil is systemd's.
	Reboot func(context.Context) error
	// NoMDNS leaves the LAN alone: only bootstrap addresses lead to other nodes.
	NoMDNS bool
}

// Agent is one node.
type Agent struct {
	opts     Options
	log      *slog.Logger
	identity *p2p.Identity
	hardware string
	tokens   *tokenKeeper
	lock     *os.File
	facts    *p2p.Facts
	events   *eventLog
	distro   k3s.Distro
	wgKey    wireGuardKey
	hostname string
	phases   *phases
	changed  p2p.Notifier
	loop     *loop

	// forwarders bring the changes of every source together in changed.
	forwarders sync.WaitGroup

	// host is set before any reconciler begins; the status API, which is there
	// earlier, asks running(). So is discovery.
	host      *p2p.Host
	discovery *p2p.Discovery
	// image is nil where this machine was not started from a slot.
	image *assessor
	// dns is the names reconciler's own.
	dns *vpn.DNS

	// cluster is what a master does to the cluster that it is part of.
	cluster cluster

	mu         sync.Mutex
	own        Facts
	etcd       []EtcdFacts // what this master's etcd last said
	tenure     int         // that this node's Kubernetes data is of, or wiped for
	ledger     *ledger.Ledger
	member     *member
	damage     string // in a sentence, of a file that was found damaged
	membership *p2p.Membership
	founding   *ledger.Founding
	mesh       *mesh
	vip        struct { // of the ledger's index
		index   uint64
		address netip.Addr
	}
	inConflict []string // as was last reported
}

// New reads or makes the node's identity and opens its state. It touches nothing
// outside of the state and run directories, and nothing at all when the
// configuration has no token. ErrRunning is wrapped when another agent works
// here. Run gives back what New took.
func New(opts Options) (_ *Agent, err error) {
	if opts.StateDir == "" {
		opts.StateDir = DefaultStateDir
	}
	if opts.RunDir == "" {
		opts.RunDir = DefaultRunDir
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	token, err := p2p.ParseToken(opts.Config.P2P.NetworkToken.Reveal())
	if err != nil {
		return nil, fmt.Errorf("p2p.network_token: %w", err)
	}
	a := &Agent{opts: opts, log: opts.Log}
	if a.lock, err = lockRunDir(opts.RunDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.abandon())
		}
	}()
	hardware, err := p2p.ReadHardware()
	if err != nil {
		return nil, fmt.Errorf("read hardware: %w", err)
	}
	identity, outcome, err := p2p.OpenIdentity(opts.StateDir, hardware)
	if err != nil {
		return nil, err
	}
	a.identity = identity
	var warnings []string
	a.tokens, warnings = openTokens(token, opts.Config.P2P.NetworkID, a.tokenFiles()...)
	a.opts.Warnings = append(a.opts.Warnings, warnings...)
	a.hardware = hardwareHash(a.tokens.networks(), hardware)
	a.log = opts.Log.With(LogNode, identity.ID().String())
	a.distro = k3s.New(k3s.Options{
		Source:      k3s.Source{Path: opts.Config.K3s.Binary, URL: opts.Config.K3s.URL, SHA256: opts.Config.K3s.SHA256},
		DownloadDir: filepath.Join(opts.StateDir, "k3s"),
		RunDir:      opts.RunDir,
		LogDir:      "/var/log",
		Log:         a.log,
	})
	a.cluster = &k3s.Cluster{}
	if outcome == p2p.IdentityReplaced {
		if err := a.startClean(); err != nil {
			return nil, err
		}
	}
	if err := a.checkNetwork(); err != nil {
		return nil, err
	}
	if err := a.openState(); err != nil {
		return nil, err
	}
	a.events.add("identity", "identity "+outcome.String(), identity.ID().String())
	a.loop = newLoop(&a.changed, a.log)
	a.image = a.openImage()
	return a, nil
}

// startClean removes what a cloned disk brought along outside of the state
// directory, before anything of it can run.
func (a *Agent) startClean() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	kept, err := a.distro.Wipe(ctx)
	if err != nil {
		return fmt.Errorf("start clean on another machine: %w", err)
	}
	a.log.Warn("this disk was made on another machine: new identity, Kubernetes data wiped", "volumes", kept)
	return a.identity.ConfirmReplaced()
}

func (a *Agent) openState() error {
	if err := os.MkdirAll(a.opts.StateDir, 0o700); err != nil {
		return fmt.Errorf("open state: %w", err)
	}
	var err error
	if a.events, err = openEvents(a.path("events.jsonl")); a.events == nil {
		return err
	}
	if err != nil {
		a.log.Error("events are not kept", LogError, err)
	}
	if a.facts, err = p2p.OpenFacts(a.path("facts"), a.identity); err != nil {
		return err
	}
	if a.wgKey, err = loadWireGuardKey(a.path("wireguard.key")); err != nil {
		return err
	}
	var before Phase
	if a.phases, before, err = openPhases(a.path("phase.json"), time.Now); a.phases == nil {
		return err
	}
	if err != nil {
		a.log.Error("phases are not kept", LogError, err)
	}
	if before != "" {
		a.log.Info("starting again", "phase_before", before)
	}
	hostname, err := a.chooseHostname()
	if err != nil {
		return err
	}
	a.hostname = siteName(hostname, a.identity.ID())
	return nil
}

func (a *Agent) path(name string) string { return filepath.Join(a.opts.StateDir, name) }

// Run is the node's life: until ctx ends it finds or founds the site and then
// works in it. Kubernetes and, where the kernel carries it, the VPN outlive it.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, a.close()) }()

	api, err := a.serveAPI()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, api.close()) }()
	a.tell("READY=1\nSTATUS=" + string(PhaseStarting))
	defer a.tell("STOPPING=1")

	if err := a.openHost(); err != nil {
		return err
	}
	discovery, err := p2p.StartDiscovery(p2p.DiscoveryConfig{
		Host: a.host, Network: a.tokens.networks().Present, MDNS: !a.opts.NoMDNS, Bootstrap: a.opts.Config.P2P.Bootstrap,
		DHT:      dhtConfig(a.opts.Config.P2P, a.opts.Listen),
		BookPath: a.path("addresses.json"), Members: a.others, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.discovery = discovery
	defer func() { err = errors.Join(err, discovery.Close()) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.watchdog(ctx)
	a.forward(ctx, a.facts.Changed, a.host.Changed, a.distro.Changed)

	var reconcilers sync.WaitGroup
	defer reconcilers.Wait()
	defer cancel(nil)
	reconcilers.Go(func() { unmapProgram(ctx, a.log) })
	a.loop.start(ctx, &reconcilers, reconciler{name: "facts", every: time.Minute, run: a.publishFacts})
	if a.image != nil {
		a.loop.start(ctx, &reconcilers, reconciler{name: "image", every: 5 * time.Second, run: a.image.run})
	}

	a.runStage(ctx, stageBootstrap)
	for ctx.Err() == nil {
		err := a.takePart(ctx)
		var damage *ledger.CorruptError
		if errors.As(err, &damage) {
			a.withstand(ctx, damage)
			return nil
		}
		if err != nil {
			return ignoreEnd(ctx, err)
		}
	}
	return nil
}

// takePart is this node's life in one ledger.
func (a *Agent) takePart(ctx context.Context) error {
	l, err := a.openLedger(ctx)
	if err != nil {
		return err
	}
	if l == nil {
		if l, err = a.becomeMember(ctx); err != nil {
			return err
		}
	}
	return a.beMember(ctx, l)
}

// onMesh tells the mesh's own addresses, over which its control plane must not
// run: it would be a way to reach itself.
func (a *Agent) onMesh(address netip.Addr) bool {
	a.mu.Lock()
	l := a.ledger
	a.mu.Unlock()
	if l == nil {
		return false
	}
	genesis, ok := ledger.ReadGenesis(l.View())
	if !ok {
		return false
	}
	mesh, err := netip.ParsePrefix(genesis.Range)
	return err == nil && mesh.Contains(address)
}

// hidden are the addresses that others are not told to reach this node at.
func (a *Agent) hidden(address netip.Addr) bool { return a.onMesh(address) || a.virtual(address) }

// openHost starts the mesh's control plane.
func (a *Agent) openHost() error {
	host, err := p2p.NewHost(p2p.HostConfig{
		Identity: a.identity, Network: a.tokens.networks().Present, Port: a.opts.Port, Listen: a.opts.Listen, Standing: a.standing, Hidden: a.hidden, Log: a.log,
	})
	if err != nil {
		return err
	}
	if err := host.SetNetworks(a.tokens.networks()); err != nil {
		return errors.Join(err, host.Close())
	}
	a.mu.Lock()
	a.host = host
	a.mu.Unlock()
	return nil
}

// running tells whether this node has a control plane to be asked about.
func (a *Agent) running() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.host != nil
}

// openLedger returns the ledger that is on disk, or nil when this node is not a
// member of a site yet.
func (a *Agent) openLedger(context.Context) (*ledger.Ledger, error) {
	l, err := ledger.Open(a.ledgerConfig())
	if errors.Is(err, ledger.ErrNoLedger) {
		return nil, nil
	}
	return l, err
}

// standing tells admission who a peer is, from the copy of the decisions that
// this node has.
func (a *Agent) standing(id peer.ID) p2p.Standing {
	a.mu.Lock()
	l, founding := a.ledger, a.founding
	a.mu.Unlock()
	if l != nil {
		view := l.View()
		if ledger.IsRevoked(view, id) {
			return p2p.StandingRevoked
		}
		// One that was removed may hear so, from the decisions that it follows.
		if ledger.IsMember(view, id) || ledger.IsRemoved(view, id) {
			return p2p.StandingMember
		}
	}
	// Founders trust each other before the first decision is committed.
	if founding != nil {
		if cert, founded := founding.Certificate(); founded && cert.Genesis.Founder(id.String()) {
			return p2p.StandingMember
		}
	}
	return p2p.StandingUnknown
}

// setFounding takes part in foundings in another way than before.
func (a *Agent) setFounding(cfg ledger.FoundingConfig) error {
	if before := a.currentFounding(); before != nil {
		before.Close()
	}
	cfg.Dir, cfg.Identity, cfg.Host, cfg.Log = a.path("ledger"), a.identity, a.host, a.log
	f, err := ledger.NewFounding(cfg)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.founding, a.damage = f, ""
	a.mu.Unlock()
	return nil
}

func (a *Agent) currentFounding() *ledger.Founding {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.founding
}

// promised tells whether this node is bound to a founding without an outcome.
func (a *Agent) promised() bool {
	f := a.currentFounding()
	return f != nil && f.Promised()
}

// founder tells whether this node founded a site with others.
func (a *Agent) founder() bool {
	f := a.currentFounding()
	if f == nil {
		return false
	}
	_, founded := f.Certificate()
	return founded
}

// forward turns the changes of every source into a change of the agent.
func (a *Agent) forward(ctx context.Context, sources ...func() <-chan struct{}) {
	for _, source := range sources {
		a.forwarders.Go(func() {
			changed := source()
			for {
				select {
				case <-changed:
				case <-ctx.Done():
					return
				}
				// Taken before anybody looks, so that no later change is missed.
				changed = source()
				a.changed.Notify()
				// What changes in bursts is looked at once.
				if !sleep(ctx, settle, nil) {
					return
				}
			}
		})
	}
}

// enter changes the phase, on disk first, and says so.
func (a *Agent) enter(p Phase, reason string) {
	change, err := a.phases.enter(p, reason)
	if err != nil {
		a.log.Error("enter phase", LogPhase, p, LogError, err)
	}
	if change == phaseEntered {
		a.log.Info("phase", LogPhase, p, LogReason, reason)
		a.events.add("phase", string(p), reason)
	}
	if change != phaseKept {
		a.tell("STATUS=" + spellPhase(p, reason))
		a.changed.Notify()
	}
}

func (a *Agent) phase() phaseRecord { return a.phases.present() }

// others are the nodes that this one is never to lose.
func (a *Agent) others() []peer.ID {
	a.mu.Lock()
	m := a.member
	a.mu.Unlock()
	if m == nil {
		return nil
	}
	return m.members()
}

func (a *Agent) close() error {
	var all error
	a.mu.Lock()
	founding, membership, mesh := a.founding, a.membership, a.mesh
	a.mu.Unlock()
	if membership != nil {
		all = errors.Join(all, membership.Close())
	}
	if founding != nil {
		founding.Close()
	}
	if a.dns != nil {
		all = errors.Join(all, a.dns.Close())
	}
	if mesh != nil {
		all = errors.Join(all, mesh.paths.Close(), mesh.vpn.Close())
	}
	if a.host != nil {
		all = errors.Join(all, a.host.Close())
	}
	a.forwarders.Wait()
	return errors.Join(all, a.facts.Flush(), a.abandon())
}

// abandon gives back what New opened.
func (a *Agent) abandon() error {
	var all error
	if a.cluster != nil {
		a.cluster.Close()
	}
	if a.distro != nil {
		all = errors.Join(all, a.distro.Close())
	}
	if a.events != nil {
		all = errors.Join(all, a.events.close())
	}
	return errors.Join(all, a.lock.Close())
}

// ignoreEnd hides the errors that come of being told to stop.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// interfaceName is where Kubernetes finds the mesh.
const interfaceName = vpn.InterfaceName
