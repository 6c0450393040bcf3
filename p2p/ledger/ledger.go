package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/muster-edge/muster/p2p"
)

// Host is the part of *p2p.Host that a ledger uses.
type Host interface {
	ID() peer.ID
	Handle(proto protocol.ID, need p2p.Access, fn func(s network.Stream))
	Unhandle(proto protocol.ID)
	Open(ctx context.Context, to peer.ID, proto protocol.ID) (network.Stream, error)
	Peers() []p2p.Peer
}

var _ Host = (*p2p.Host)(nil)

// Site names a ledger: the site that it belongs to, and how often it has been
// recovered. A lower generation never votes or decides again (history S7).
type Site struct {
	ID         string `json:"id"`
	Generation uint64 `json:"generation"`
}

func (s Site) String() string {
	return fmt.Sprintf("site %q generation %s", s.ID, SpellGeneration(s.Generation))
}

// Config is what a ledger is made of. Dir, Identity and Host are required.
type Config struct {
	// Dir holds everything of the ledger, Raft's votes included. It is wiped
	// together with the identity or not at all.
	Dir      string
	Identity *p2p.Identity
	Host     Host
	Log      *slog.Logger // nil: slog.Default
	Timing   Timing       // zero: SiteTiming

	// CheckPolicy refuses a policy record in a plain sentence; nil takes any
	// JSON object.
	CheckPolicy func(policy json.RawMessage) error

	// Admit decides about a newcomer whose request is well formed and signed, on
	// the node that it asks and again on the coordinator. An error is the reason
	// that the newcomer hears. nil lets in everybody who passed admission.
	Admit func(newcomer peer.ID, r EnrolmentRequest) error

	disk copyDisk                // tests break it
	step func(name string) error // tests cut the power
}

func (c Config) logger() *slog.Logger {
	if c.Log == nil {
		return slog.Default()
	}
	return c.Log
}

// reached names a durable step of a recovery, after it is on the disk.
func (c Config) reached(step string) error {
	if c.step == nil {
		return nil
	}
	return c.step(step)
}

// Ledger is this node's copy of what the site decided, and its part in deciding.
// All methods may be called at the same time.
type Ledger struct {
	cfg  Config
	site Site
	// superseded is a generation to which this node has given way: it does not
	// vote, and waits for that generation's copy.
	superseded uint64
	opened     time.Time
	genesis    *Genesis // nil on a node that joined later
	lock       *os.File
	damage     *CorruptError // of the copy that was there
	copy       *replica
	seat       atomic.Pointer[voter] // nil on a follower
	seating    sync.Mutex            // held by who takes or leaves the seat
	changed    p2p.Notifier
	follow     *followClient
	hands      *hands
	enrols     *enrolLimit

	ctx  context.Context // ends at Close
	stop context.CancelFunc
	mu   sync.Mutex // guards closed, and wg.Add against wg.Wait
	done bool
	wg   sync.WaitGroup
}

// Found starts the ledger of a new site on one of its founders. The masters of
// the certificate bootstrap Raft, all with the same configuration; the others
// follow. Idempotent: after a power cut it is called again, or Open is.
//
// The site exists when the ledger shows its genesis record, not before.
func Found(cfg Config, cert Certificate) (*Ledger, error) {
	m, err := foundingMeta(cfg, cert)
	if err != nil {
		return nil, fmt.Errorf("found site %q: %w", cert.Genesis.Site, err)
	}
	return begin(cfg, m)
}

// Join starts the ledger of an enrolled newcomer: a follower with an empty copy.
func Join(cfg Config, site Site) (*Ledger, error) {
	if site.ID == "" || len(site.ID) > maxSiteSize {
		return nil, fmt.Errorf("join %v: not a site ID", site)
	}
	return begin(cfg, meta{Version: metaVersion, Site: site, Self: cfg.Identity.ID().String()})
}

// Open starts the ledger that is on the disk: ErrNoLedger when there is none, a
// *CorruptError when a file is damaged that cannot be had again; Damage tells of one
// that can. It needs no other node; what was decided before can be read at once.
func Open(cfg Config) (*Ledger, error) {
	m, err := readMeta(cfg.Dir)
	if err != nil {
		return nil, err
	}
	return start(cfg, m)
}

// begin writes m unless the disk already says the same.
func begin(cfg Config, m meta) (*Ledger, error) {
	old, err := readMeta(cfg.Dir)
	switch {
	case errors.Is(err, ErrNoLedger):
	case err != nil:
		return nil, err
	case old.Site.ID != m.Site.ID:
		return nil, fmt.Errorf("start ledger: %s holds %v, not %v", cfg.Dir, old.Site, m.Site)
	case old.Site.Generation > m.Site.Generation:
		return nil, fmt.Errorf("start ledger: %s holds generation %s, newer than %s", cfg.Dir, SpellGeneration(old.Site.Generation), SpellGeneration(m.Site.Generation))
	case old.Site.Generation < m.Site.Generation:
		return nil, fmt.Errorf("start ledger: %s holds generation %s; wipe it before joining generation %s", cfg.Dir, SpellGeneration(old.Site.Generation), SpellGeneration(m.Site.Generation))
	default:
		return start(cfg, old)
	}
	if err := os.MkdirAll(dataDir(cfg.Dir, m.Site), 0o700); err != nil {
		return nil, fmt.Errorf("start ledger: %w", err)
	}
	if err := writeMeta(cfg.Dir, m); err != nil {
		return nil, err
	}
	return start(cfg, m)
}

func start(cfg Config, m meta) (_ *Ledger, err error) {
	if self := cfg.Identity.ID().String(); m.Self != self {
		return nil, &CorruptError{File: filepath.Join(cfg.Dir, metaFile), Reason: fmt.Sprintf("it belongs to node %s, this is %s", m.Self, self)}
	}
	cfg.Log = cfg.logger()
	if cfg.Timing == (Timing{}) {
		cfg.Timing = SiteTiming()
	}
	if cfg.disk == nil {
		cfg.disk = realDisk{}
	}
	l := &Ledger{
		cfg:     cfg,
		site:    m.Site,
		genesis: m.Genesis,
		opened:  time.Now(),

		superseded: m.Superseded,

		hands:  newHands(maxInHand, maxInHandOfPeer),
		enrols: newEnrolLimit(),
	}
	l.lock, err = lockDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	l.copy, err = openReplica(dataDir(cfg.Dir, m.Site), m.Site, cfg.disk, &l.changed)
	if !m.Voter && errors.As(err, &l.damage) {
		// Others have what a follower's copy had.
		cfg.Log.Error("this node's copy of the decisions is set aside, and fetched again", "error", l.damage)
		l.copy, err = renewReplica(dataDir(cfg.Dir, m.Site), m.Site, cfg.disk, &l.changed)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger: %w", err), l.lock.Close())
	}
	l.ctx, l.stop = context.WithCancel(context.Background())
	if m.Voter && m.Superseded == 0 {
		if err := l.startVoter(m); err != nil {
			l.stop()
			return nil, errors.Join(fmt.Errorf("open ledger: %w", err), l.copy.close(), l.lock.Close())
		}
	}
	l.follow = newFollowClient(l)
	l.wg.Go(func() { l.follow.run(l.ctx) })
	cfg.Host.Handle(ProtocolPropose, p2p.AccessMember, l.serve(l.servePropose))
	cfg.Host.Handle(ProtocolFollow, p2p.AccessMember, l.serve(l.serveFollow))
	cfg.Host.Handle(ProtocolEnrol, p2p.AccessAdmitted, l.serve(l.serveEnrol))
	cfg.Host.Handle(ProtocolSync, p2p.AccessMember, l.serve(l.serveSync))
	return l, nil
}

func (l *Ledger) startVoter(m meta) error {
	v, err := openVoter(voterConfig{
		dir:     dataDir(l.cfg.Dir, m.Site),
		host:    l.cfg.Host,
		site:    m.Site,
		self:    raft.ServerID(m.Server),
		servers: m.Founding,
		fresh:   !m.Bootstrapped,
		copy:    l.copy,
		timing:  l.cfg.Timing,
		log:     l.cfg.Log,
		notify:  l.changed.Notify,
		found:   func() ([]byte, error) { return l.genesisCommand(m.Genesis) },
	})
	if err != nil {
		return err
	}
	l.seat.Store(v)
	if m.Bootstrapped {
		return nil
	}
	m.Bootstrapped = true
	if err := writeMeta(l.cfg.Dir, m); err != nil {
		l.seat.Store(nil)
		return errors.Join(err, v.close())
	}
	return nil
}

// genesisCommand returns the first command of a site, nil if it is there.
func (l *Ledger) genesisCommand(g *Genesis) ([]byte, error) {
	if _, ok := l.copy.view().Get(KeyGenesis); ok || g == nil {
		return nil, nil
	}
	value, err := json.Marshal(g)
	if err != nil {
		return nil, err
	}
	t := Txn{ID: NewTxnID()}.If(KeyGenesis, 0).Set(KeyGenesis, value)
	return encodeCommand(command{author: l.cfg.Identity.ID(), txn: t})
}

// Site returns what this ledger belongs to.
func (l *Ledger) Site() Site { return l.site }

// Index returns the index of the last decision in the local copy.
func (l *Ledger) Index() uint64 { return l.View().Index() }

// Get returns one entry of the local copy.
func (l *Ledger) Get(key string) (Entry, bool) { return l.View().Get(key) }

// List returns the entries of the local copy with that prefix, sorted by key.
func (l *Ledger) List(prefix string) []Entry { return l.View().List(prefix) }

// View returns the local copy as it is now.
func (l *Ledger) View() View { return l.copy.view() }

// Damage is what was wrong with the copy that was here, if it had to be set aside
// and begun anew.
func (l *Ledger) Damage() (*CorruptError, bool) { return l.damage, l.damage != nil }

// Changed is closed when the copy, the coordinator or the status changed. Take
// it before reading.
func (l *Ledger) Changed() <-chan struct{} { return l.changed.Changed() }

// Lost says that gossip has held a node for dead since then. A follower leaves
// that node's stream for another's, instead of waiting until its silence is long
// enough. A stream that began later works in spite of gossip, and stays.
func (l *Ledger) Lost(id peer.ID, since time.Time) { l.follow.lost(id, since) }

// Coordinator returns the node that decides, as far as this one knows. It may
// be gone already.
func (l *Ledger) Coordinator() (peer.ID, bool) {
	if v := l.voting(); v != nil {
		if id, known := v.coordinator(); known || !v.forlorn() {
			return id, known
		}
	}
	return l.follow.coordinator()
}

// IsCoordinator says whether this node decides now: it leads, has applied
// everything committed before its term, and the genesis record is there. What
// it plans from View is therefore planned from all decisions.
func (l *Ledger) IsCoordinator() bool {
	v := l.voting()
	return v != nil && v.inOffice()
}

// Leads says whether Raft calls this node the leader, able to decide or not.
func (l *Ledger) Leads() bool {
	v := l.voting()
	return v != nil && v.raft.State() == raft.Leader
}

// TransferLeadership makes another voter coordinator, before this node reboots.
// An error when this node is not the coordinator, or nobody can take over.
func (l *Ledger) TransferLeadership(ctx context.Context) error {
	v := l.voting()
	if v == nil || v.raft.State() != raft.Leader {
		return errors.New("transfer leadership: this node is not the coordinator")
	}
	done := make(chan error, 1)
	transfer := func() {
		_, err := ask(v, v.raft.LeadershipTransfer)
		done <- err
	}
	if !l.spawn(transfer) {
		return ErrClosed
	}
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("transfer leadership: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("transfer leadership: %w", ctx.Err())
	}
}

// Close stops following and voting, and waits for everything that it started.
func (l *Ledger) Close() error {
	l.mu.Lock()
	if l.done {
		l.mu.Unlock()
		return nil
	}
	l.done = true
	l.mu.Unlock()
	for _, p := range []protocol.ID{ProtocolPropose, ProtocolFollow, ProtocolEnrol, ProtocolSync} {
		l.cfg.Host.Unhandle(p)
	}
	l.stop()
	var err error
	l.seating.Lock()
	if v := l.voting(); v != nil {
		err = v.close()
	}
	l.seating.Unlock()
	l.wg.Wait()
	return errors.Join(err, l.copy.close(), l.lock.Close())
}

// spawn runs fn unless the ledger is closed. Close waits for it.
func (l *Ledger) spawn(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return false
	}
	l.wg.Go(fn)
	return true
}

// serve makes a stream handler that ends, with its stream, when the ledger does.
func (l *Ledger) serve(fn func(ctx context.Context, s network.Stream) error) func(network.Stream) {
	return func(s network.Stream) {
		finished := make(chan struct{})
		ok := l.spawn(func() {
			defer close(finished)
			unblock := context.AfterFunc(l.ctx, func() { _ = s.Reset() }) // ends a blocked read
			defer unblock()
			if err := fn(l.ctx, s); err != nil {
				l.cfg.Log.Debug("ledger stream ended", "protocol", s.Protocol(), "peer", s.Conn().RemotePeer(), "error", err)
				_ = s.Reset() // the error is the news
				return
			}
			_ = s.Close() // the answer is on its way; the other side reads to its end
		})
		if !ok {
			_ = s.Reset() // closed
			return
		}
		<-finished
	}
}

// voters returns who can take a proposal or serve the follower stream best: the
// Raft configuration on a voter, else what the copy says.
func (l *Ledger) voters() []peer.ID {
	var out []peer.ID
	if v := l.voting(); v != nil {
		for _, s := range v.servers() {
			if p, ok := serverPeer(s.ID); ok && s.Suffrage == raft.Voter {
				out = append(out, p)
			}
		}
		return out
	}
	if v := l.View(); v.Index() > 0 || l.genesis == nil {
		return Masters(v)
	}
	// A founder before the first decision reached it.
	for _, m := range l.genesis.Masters {
		if id, err := peer.Decode(m); err == nil {
			out = append(out, id)
		}
	}
	return out
}

// members returns the connected nodes of this site, voters first. What a peer
// says of itself counts only while this copy is empty and knows no member: a
// newcomer could else name the site and feed this node decisions of its own.
func (l *Ledger) members() []peer.ID {
	voters := l.voters()
	out := slices.Clone(voters)
	v := l.View()
	member := func(id peer.ID) bool {
		if v.Index() == 0 {
			return l.genesis == nil || l.genesis.Founder(id.String())
		}
		return IsMember(v, id)
	}
	for _, p := range l.cfg.Host.Peers() {
		if p.Greeting.Site == l.site.ID && !slices.Contains(voters, p.ID) && member(p.ID) {
			out = append(out, p.ID)
		}
	}
	return slices.DeleteFunc(out, func(p peer.ID) bool { return p == l.cfg.Identity.ID() })
}
