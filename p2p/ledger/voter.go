package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	raftDir = "raft"

	keepSnapshots = 2
	logCache      = 128 // log entries kept in memory for voters that lag a little
)

// voter is a master's part in Raft.
type voter struct {
	raft   *raft.Raft
	ready  chan struct{} // closed when raft is set
	trans  *raft.NetworkTransport
	layer  *streamLayer
	wal    *raftLog
	stable *patientStore
	self   raft.ServerID
	timing Timing
	log    *slog.Logger
	notify func()
	found  func() ([]byte, error) // the genesis command, if the ledger lacks it

	// deciding is held from the check of a proposal until its outcome is known.
	deciding chan struct{}
	term     atomic.Uint64 // in which this node is coordinator, 0 if it is not

	mu         sync.Mutex
	lost       map[raft.ServerID]time.Time // voters that miss heartbeats: last contact
	leaderless time.Time                   // since when no coordinator is known, zero while one is
	closed     bool                        // Raft is asked nothing any more

	observations chan raft.Observation
	observer     *raft.Observer
	stop         context.CancelFunc
	wg           sync.WaitGroup
}

// serverID names a voter together with its storage: one that lost its disk, and
// with it its votes, comes back as a stranger (history S5).
func serverID(id peer.ID, incarnation string) raft.ServerID {
	return raft.ServerID(id.String() + "/" + incarnation)
}

func serverPeer(id raft.ServerID) (peer.ID, bool) {
	s, _, _ := strings.Cut(string(id), "/")
	p, err := peer.Decode(s)
	return p, err == nil
}

type voterConfig struct {
	dir     string // of the ledger
	host    Host
	site    Site
	self    raft.ServerID
	servers []raft.Server // founding configuration
	fresh   bool          // not bootstrapped yet, as far as meta knows
	copy    *replica
	timing  Timing
	log     *slog.Logger
	notify  func()
	found   func() ([]byte, error)
}

// openVoter starts Raft on the storage in dir/raft. A voter that has voted
// before and finds its storage empty refuses: it could vote twice.
func openVoter(cfg voterConfig) (_ *voter, err error) {
	dir := filepath.Join(cfg.dir, raftDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open Raft storage: %w", err)
	}
	logger := raftLogger(cfg.log)
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, logger)
	if err != nil {
		return nil, fmt.Errorf("open Raft snapshots in %s: %w", dir, err)
	}
	w, err := openLog(dir, logger)
	if err != nil {
		return nil, &CorruptError{File: dir, Reason: err.Error()}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	has, err := raft.HasExistingState(w, w, snaps)
	if err != nil {
		return nil, &CorruptError{File: dir, Reason: err.Error()}
	}
	if has && cfg.fresh {
		if has, err = finishedBootstrap(w, snaps); err != nil {
			return nil, &CorruptError{File: dir, Reason: err.Error()}
		}
	}
	if !has && !cfg.fresh {
		return nil, &CorruptError{File: dir, Reason: "this voter's log and votes are gone; wipe the whole state directory, and it joins again as a new node"}
	}

	v := &voter{
		ready:        make(chan struct{}),
		wal:          w,
		stable:       newPatientStore(w, cfg.log),
		self:         cfg.self,
		timing:       cfg.timing,
		log:          cfg.log,
		notify:       cfg.notify,
		found:        cfg.found,
		deciding:     make(chan struct{}, 1),
		lost:         map[raft.ServerID]time.Time{},
		leaderless:   time.Now(),
		observations: make(chan raft.Observation, 64),
	}
	v.layer = newStreamLayer(cfg.host, cfg.site, v.hello, func(id peer.ID) bool {
		return v.hasServer(id) || slices.Contains(Masters(cfg.copy.view()), id)
	})
	v.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:  v.layer,
		MaxPool: 2, // one for heartbeats, one for entries
		Timeout: cfg.timing.RPCTimeout,
		Logger:  logger,
	})
	defer func() {
		if err != nil {
			err = errors.Join(err, v.trans.Close())
		}
	}()
	conf := cfg.timing.raftConfig(cfg.self)
	conf.Logger = logger
	logs, err := raft.NewLogCache(logCache, w)
	if err != nil {
		return nil, fmt.Errorf("open Raft log: %w", err)
	}
	if !has && len(cfg.servers) == 0 {
		// A seat taken later: the coordinator gives it the configuration. The term
		// tells from now on that there was a log here (history S5).
		if err := w.SetUint64([]byte(termKey), 1); err != nil {
			return nil, fmt.Errorf("begin Raft storage: %w", err)
		}
	} else if !has {
		founding := raft.Configuration{Servers: cfg.servers}
		err := raft.BootstrapCluster(conf, logs, w, snaps, v.trans, founding)
		if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
			return nil, fmt.Errorf("bootstrap Raft: %w", err)
		}
	}
	v.raft, err = raft.NewRaft(conf, fsm{cfg.copy}, logs, v.stable, snaps, v.trans)
	if err != nil {
		return nil, fmt.Errorf("start Raft in %s: %w", dir, err)
	}
	close(v.ready)
	v.start()
	return v, nil
}

// finishedBootstrap says whether a bootstrap that nobody knows to have finished
// did. raft.BootstrapCluster writes a term and then the configuration; after a
// power cut between the two it would refuse to go on ("has state"), and a voter
// without configuration never elects anybody. Nothing can have happened in that
// term, so it is taken back and everything is written again.
func finishedBootstrap(w *raftLog, snaps raft.SnapshotStore) (bool, error) {
	last, err := w.LastIndex()
	if err != nil {
		return false, err
	}
	taken, err := snaps.List()
	if err != nil {
		return false, err
	}
	vote, err := w.GetUint64([]byte("LastVoteTerm")) // 0 if there is none
	if err != nil {
		return false, err
	}
	if last > 0 || len(taken) > 0 || vote > 0 {
		return true, nil
	}
	return false, w.SetUint64([]byte(termKey), 0)
}

func (t Timing) raftConfig(self raft.ServerID) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = self
	c.HeartbeatTimeout = t.HeartbeatTimeout + headStart // until stand
	c.ElectionTimeout = t.ElectionTimeout + headStart
	c.LeaderLeaseTimeout = t.LeaderLease
	c.CommitTimeout = t.CommitInterval
	c.SnapshotInterval = t.SnapshotInterval
	c.SnapshotThreshold = t.SnapshotThreshold
	c.TrailingLogs = t.TrailingLogs
	c.NoLegacyTelemetry = true
	c.ShutdownOnRemove = false // only close ends Raft: see ask
	return c
}

func (v *voter) start() {
	var ctx context.Context
	ctx, v.stop = context.WithCancel(context.Background())
	v.observer = raft.NewObserver(v.observations, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation:
			return true
		}
		return false
	})
	v.raft.RegisterObserver(v.observer)
	v.wg.Go(func() { v.observe(ctx) })
	v.wg.Go(func() { v.watchOffice(ctx) })
	v.wg.Go(func() { v.hurry(ctx) })
	v.layer.listen()
}

func (v *voter) close() error {
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.stop()
	v.raft.DeregisterObserver(v.observer)
	v.stable.stop()
	v.wg.Wait()
	// Shutdown closes the transport too, once Raft no longer uses it.
	err := v.raft.Shutdown().Error()
	return errors.Join(err, v.trans.Close(), v.wal.Close())
}

// ask makes a request to Raft and waits for the answer, and close waits for that
// before it shuts Raft down: what was committed but not applied by then would
// never be answered. While Raft runs everything is, at the latest when the
// coordinator's lease ends.
func ask[F raft.Future](v *voter, request func() F) (F, error) {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		var none F
		return none, raft.ErrRaftShutdown
	}
	v.wg.Add(1)
	v.mu.Unlock()
	defer v.wg.Done()
	f := request()
	return f, f.Error()
}

// hello is what this voter says of itself to another one.
func (v *voter) hello() hello {
	h := hello{Version: 1, Server: string(v.self)}
	select {
	case <-v.ready:
	case <-v.layer.done:
		return h
	}
	_, leader := v.raft.LeaderWithID()
	h.Leader, h.Last = string(leader), v.raft.LastIndex()
	return h
}

// coordinator returns the leader that this voter knows.
func (v *voter) coordinator() (peer.ID, bool) {
	_, id := v.raft.LeaderWithID()
	return serverPeer(id)
}

// inOffice says whether this node decides: it leads, and has applied everything
// that was committed before it did.
func (v *voter) inOffice() bool {
	term := v.term.Load()
	return term != 0 && v.raft.State() == raft.Leader && v.raft.CurrentTerm() == term
}

func (v *voter) servers() []raft.Server {
	f := v.raft.GetConfiguration()
	if f.Error() != nil {
		return nil // never set for this future
	}
	return f.Configuration().Servers
}

func (v *voter) hasServer(id peer.ID) bool {
	return slices.ContainsFunc(v.servers(), func(s raft.Server) bool {
		p, ok := serverPeer(s.ID)
		return ok && p == id
	})
}

// unreachable returns the voters that the coordinator misses, with the time of
// their last answer.
func (v *voter) unreachable() map[raft.ServerID]time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.lost)
}

// forlorn tells whether this voter has known no coordinator for longer than an
// election takes.
func (v *voter) forlorn() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return !v.leaderless.IsZero() && time.Since(v.leaderless) > 2*v.timing.HeartbeatTimeout
}

func (v *voter) observe(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-v.observations:
			v.mu.Lock()
			switch o := o.Data.(type) {
			case raft.LeaderObservation:
				clear(v.lost)
				v.leaderless = time.Time{}
				if o.LeaderID == "" {
					v.leaderless = time.Now()
				}
			case raft.FailedHeartbeatObservation:
				v.lost[o.PeerID] = o.LastContact
			case raft.ResumedHeartbeatObservation:
				delete(v.lost, o.PeerID)
			}
			v.mu.Unlock()
			v.notify()
		}
	}
}

func (v *voter) watchOffice(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-v.raft.LeaderCh():
			v.term.Store(0)
			if leads {
				v.takeOffice(ctx)
			}
			v.notify()
		}
	}
}

// takeOffice makes this node coordinator once it has applied what earlier
// coordinators committed and the ledger begins with its genesis record.
func (v *voter) takeOffice(ctx context.Context) {
	for v.raft.State() == raft.Leader && ctx.Err() == nil {
		term := v.raft.CurrentTerm()
		_, err := ask(v, func() raft.Future { return v.raft.Barrier(v.timing.RPCTimeout) })
		if err == nil {
			err = v.ensureGenesis()
		}
		if err == nil && v.raft.CurrentTerm() == term {
			v.term.Store(term)
			v.log.Info("this node is the coordinator", "term", term)
			return
		}
		v.log.Debug("cannot take office yet", "term", term, "error", err)
		if !pause(ctx, v.timing.FollowRetry) {
			return
		}
	}
}

func (v *voter) ensureGenesis() error {
	cmd, err := v.found()
	if err != nil || cmd == nil {
		return err
	}
	f, err := ask(v, func() raft.ApplyFuture { return v.raft.Apply(cmd, v.timing.RPCTimeout) })
	if err != nil {
		return err
	}
	if res, ok := f.Response().(result); !ok || res.outcome != outcomeCommitted {
		return fmt.Errorf("commit the genesis record: outcome %v", f.Response())
	}
	return nil
}

// hurry elects a first coordinator without waiting for a heartbeat timeout,
// which is long because heartbeats are rare: a voter that has just started asks
// the others. When a majority is up, none of them knows a coordinator, and this
// one has the longest log (ties: the smallest ID), it starts an election at
// once. Whom it may elect is Raft's business, so a wrong guess costs an election
// and no more.
func (v *voter) hurry(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*v.timing.HeartbeatTimeout)
	defer cancel()
	for try := time.Duration(1); ; try++ {
		if _, known := v.coordinator(); known {
			return
		}
		if v.shouldStand(ctx) {
			v.stand()
			return
		}
		if !pause(ctx, min(try*20*time.Millisecond, 200*time.Millisecond)) {
			return
		}
	}
}

func (v *voter) shouldStand(ctx context.Context) bool {
	// Who does not answer within this does not take part in the guess.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	servers := v.servers()
	if !slices.ContainsFunc(servers, func(s raft.Server) bool { return s.ID == v.self && s.Suffrage == raft.Voter }) {
		return false
	}
	answers := make(chan hello, len(servers))
	var wg sync.WaitGroup
	asked := 0
	for _, s := range servers {
		p, ok := serverPeer(s.ID)
		if !ok || s.ID == v.self {
			continue
		}
		asked++
		wg.Go(func() {
			h, err := v.layer.ask(ctx, p)
			if err != nil || h.Server != string(s.ID) {
				h = hello{} // not there, or not with the storage that votes
			}
			answers <- h
		})
	}
	wg.Wait()
	mine := v.hello()
	up := 1
	for range asked {
		h := <-answers
		switch {
		case h.Server == "":
		case h.Leader != "", h.Last > mine.Last, h.Last == mine.Last && h.Server < mine.Server:
			return false
		default:
			up++
		}
	}
	return up > len(servers)/2
}

// headStart is by how much stand shortens the heartbeat timeout.
const headStart = time.Millisecond

// stand makes Raft look now, not at the end of its heartbeat timeout, whether it
// hears a coordinator: that is what it does when the timeout is shortened. If it
// heard none it stands for election, with a pre-vote.
func (v *voter) stand() {
	c := v.raft.ReloadableConfig()
	c.HeartbeatTimeout = v.timing.HeartbeatTimeout
	if err := v.raft.ReloadConfig(c); err != nil {
		v.log.Warn("cannot stand for election at once", "error", err)
	}
}

// pause waits for d, false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
