package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/muster-edge/muster/p2p"
)

const (
	genesisProtocol protocol.ID = "/muster/genesis/1"

	foundingFile         = "founding.json"
	foundingStateVersion = 1
)

// ErrFoundingClosed is returned by [Founding.Run] after [Founding.Close].
var ErrFoundingClosed = errors.New("founding is closed")

// FoundingHost is the part of *p2p.Host that a founding uses.
type FoundingHost interface {
	Handle(proto protocol.ID, need p2p.Access, fn func(s network.Stream))
	Unhandle(proto protocol.ID)
	Open(ctx context.Context, to peer.ID, proto protocol.ID) (network.Stream, error)
}

// FoundingConfig is what a founding is made of. All but Propose, Log and Timing
// are required.
type FoundingConfig struct {
	// Dir is the ledger's directory: promises, votes and the certificate live
	// beside the Raft log and are wiped together with it.
	Dir      string
	Identity *p2p.Identity
	Host     FoundingHost

	// Alive returns the peers that gossip sees alive now.
	Alive func() []peer.ID

	// Propose returns the record that this node would found a site with now, or
	// nil and why not, in sentences. Version, Site and Proposer are filled in,
	// Founders and Masters sorted. It is called on every tick, must not block,
	// and gives the same on every node that sees the same. It is nil on a node
	// that belongs to a site: that node only helps others to an outcome.
	Propose func() (*Genesis, []string)

	Log    *slog.Logger   // nil: slog.Default
	Timing FoundingTiming // zero: SiteFoundingTiming

	write func(path string, data []byte, perm os.FileMode) error // tests cut the power
}

// FoundingTiming is how long a founding waits for what. None of it matters for
// safety, only for how soon a disturbed founding goes on.
type FoundingTiming struct {
	Tick         time.Duration // how often Propose and Alive are looked at
	RetryAfter   time.Duration // an unanswered message is said again
	ProposeDelay time.Duration // left to each living node with a lower ID before proposing
	Stagger      time.Duration // left to each living founder with a lower ID before taking over
	AbortAfter   time.Duration // a needed founder is gone for so long: give the attempt up
	StallAfter   time.Duration // an attempt has no outcome for so long: give it up
}

// SiteFoundingTiming is meant for a LAN and works over the Internet.
func SiteFoundingTiming() FoundingTiming {
	return FoundingTiming{
		Tick:         100 * time.Millisecond, // a tenth of what a person notices
		RetryAfter:   500 * time.Millisecond, // several round trips and fsyncs of a slow eMMC
		ProposeDelay: time.Second,            // views differ for as long as gossip takes to settle
		Stagger:      2 * time.Second,        // one take-over, with fsyncs, takes less
		AbortAfter:   8 * time.Second,        // longer than a restart of the agent, shorter than a reboot
		StallAfter:   20 * time.Second,       // well above AbortAfter, which knows more
	}
}

func (t FoundingTiming) ticks() (foundingTicks, error) {
	if t.Tick <= 0 {
		return foundingTicks{}, fmt.Errorf("founding: Tick must be positive, it is %v", t.Tick)
	}
	n := func(d time.Duration) int { return int((d + t.Tick - 1) / t.Tick) }
	ticks := foundingTicks{
		Retry: n(t.RetryAfter), Propose: n(t.ProposeDelay), Stagger: n(t.Stagger), Abort: n(t.AbortAfter), Stall: n(t.StallAfter),
	}
	return ticks, ticks.validate()
}

// Founding takes part in the creation of a site on behalf of this node, and
// answers other founders about it until it is closed. See genesis_machine.go
// for the protocol. All methods may be called at the same time.
type Founding struct {
	cfg   FoundingConfig
	self  string
	log   *slog.Logger
	mail  *mailroom
	inbox chan letter
	ctx   context.Context // ends at Close, or when the disk fails
	stop  context.CancelCauseFunc
	done  chan struct{} // the loop has ended
	ready chan struct{} // there is a certificate, on disk

	mu      sync.Mutex
	machine *machine
	whyNot  []string
}

// NewFounding picks up what the disk says and takes part from now on.
func NewFounding(cfg FoundingConfig) (*Founding, error) {
	if cfg.Dir == "" || cfg.Identity == nil || cfg.Host == nil || cfg.Alive == nil {
		return nil, errors.New("founding: Dir, Identity, Host and Alive are required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Timing == (FoundingTiming{}) {
		cfg.Timing = SiteFoundingTiming()
	}
	if cfg.write == nil {
		cfg.write = p2p.WriteFile
	}
	ticks, err := cfg.Timing.ticks()
	if err != nil {
		return nil, err
	}
	incarnation, err := Incarnation(cfg.Dir)
	if err != nil {
		return nil, err
	}
	state, err := readFoundingState(filepath.Join(cfg.Dir, foundingFile))
	if err != nil {
		return nil, err
	}
	f := &Founding{
		cfg: cfg, self: cfg.Identity.ID().String(), log: cfg.Log.With("component", "founding"),
		inbox: make(chan letter), done: make(chan struct{}), ready: make(chan struct{}),
	}
	f.ctx, f.stop = context.WithCancelCause(context.Background())
	f.machine = newMachine(machineConfig{
		Self: f.self, Incarnation: incarnation, Witness: cfg.Propose == nil,
		Sign: cfg.Identity.Sign, Verify: p2p.Verify, Ticks: ticks,
	}, state)
	if state.Founded != nil {
		close(f.ready)
	}
	f.mail = newMailroom(f.ctx, cfg.Host, f.log)
	cfg.Host.Handle(genesisProtocol, p2p.AccessAdmitted, func(s network.Stream) { f.mail.receive(s, f.inbox) })
	go f.loop()
	return f, nil
}

// readFoundingState refuses a damaged file: a promise or vote that was given
// must not be forgotten (history S5).
func readFoundingState(path string) (foundingState, error) {
	var state foundingState
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	if err != nil {
		return state, fmt.Errorf("read founding: %w", err)
	}
	if err := json.Unmarshal(raw, &state); err != nil {
		return state, fmt.Errorf("read founding: %w", &CorruptError{File: path, Reason: err.Error()})
	}
	if state.Version != foundingStateVersion {
		return state, fmt.Errorf("read founding: %w", &CorruptError{File: path, Reason: fmt.Sprintf("version %d, this node knows %d", state.Version, foundingStateVersion)})
	}
	return state, nil
}

// Run returns the certificate of the site once it is complete and on this
// node's disk, at once if it was before. It returns the context's error,
// [ErrFoundingClosed], or why the disk did not take a promise or vote; then
// close this Founding and make a new one, which goes on from the disk.
func (f *Founding) Run(ctx context.Context) (Certificate, error) {
	select {
	case <-f.ready:
		f.mu.Lock()
		defer f.mu.Unlock()
		c, _ := f.machine.Founded()
		return c, nil
	case <-ctx.Done():
		return Certificate{}, fmt.Errorf("found a site: %w", ctx.Err())
	case <-f.ctx.Done():
		return Certificate{}, fmt.Errorf("found a site: %w", context.Cause(f.ctx))
	}
}

// Waiting says in sentences what the founding waits for; empty when a site is
// founded or this node takes no part.
func (f *Founding) Waiting() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machine.Waiting(f.whyNot)
}

// Close ends this node's part. What it promised stays promised.
func (f *Founding) Close() {
	f.cfg.Host.Unhandle(genesisProtocol)
	f.stop(ErrFoundingClosed)
	<-f.done
	f.mail.wait()
}

func (f *Founding) loop() {
	defer close(f.done)
	ticker := time.NewTicker(f.cfg.Timing.Tick)
	defer ticker.Stop()
	for f.ctx.Err() == nil {
		var act func()
		select {
		case <-f.ctx.Done():
			return
		case l := <-f.inbox:
			act = func() { f.machine.Step(l.Peer, l.Message) }
		case <-ticker.C:
			alive := f.alive()
			offer, whyNot := f.propose()
			act = func() {
				f.whyNot = whyNot
				f.machine.Tick(alive, offer)
			}
		}
		if err := f.carryOut(act); err != nil {
			f.log.Error("founding stops", "error", err)
			f.stop(err)
		}
	}
}

// carryOut lets the machine act, and lets nobody know before the disk does.
func (f *Founding) carryOut(act func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	act()
	out := f.machine.Output()
	if out.Err != nil {
		return fmt.Errorf("sign: %w", out.Err)
	}
	if out.State != nil {
		raw, err := json.Marshal(out.State)
		if err != nil {
			return fmt.Errorf("save founding: %w", err)
		}
		if err := f.cfg.write(filepath.Join(f.cfg.Dir, foundingFile), raw, 0o600); err != nil {
			return fmt.Errorf("save founding: %w", err)
		}
		f.announce()
	}
	for _, l := range out.Send {
		f.mail.post(l)
	}
	return nil
}

func (f *Founding) announce() {
	c, ok := f.machine.Founded()
	if !ok {
		return
	}
	select {
	case <-f.ready:
	default:
		f.log.Info("site founded", "site", c.Genesis.Site, "founders", len(c.Genesis.Founders), "masters", c.Genesis.Masters)
		close(f.ready)
	}
}

func (f *Founding) alive() []string {
	peers := f.cfg.Alive()
	out := make([]string, len(peers))
	for i, id := range peers {
		out[i] = id.String()
	}
	return out
}

func (f *Founding) propose() (*Genesis, []string) {
	if f.cfg.Propose == nil {
		return nil, nil
	}
	g, whyNot := f.cfg.Propose()
	if g == nil {
		return nil, whyNot
	}
	offer := *g
	offer.Version, offer.Proposer = GenesisVersion, f.self
	if offer.Site == "" {
		offer.Site = NewSiteID()
	}
	offer.Founders, offer.Masters = slices.Clone(offer.Founders), slices.Clone(offer.Masters)
	slices.Sort(offer.Founders)
	slices.Sort(offer.Masters)
	if err := offer.Validate(); err != nil {
		return nil, append(whyNot, fmt.Sprintf("this node's own proposal is refused: %v", err))
	}
	return &offer, whyNot
}
