package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
)

// Recover begins a new generation of the site on this node, with c for its
// decisions and this node for its only voter. changes are made to the copy in the
// same step; r says who is kept and who lost, and the rest of it is filled in.
// highest is the highest generation that was seen anywhere.
//
// The ledger of this node must be closed. Nothing has happened until the last
// step, a rename, is on the disk; a power cut before it leaves the ledger as it
// was, and Recover may be called again.
func Recover(cfg Config, c Copy, highest uint64, r Recovery, changes []Op) (Site, error) {
	next, err := recoverAs(cfg, c, highest, r, changes)
	if err != nil {
		return Site{}, fmt.Errorf("recover %v: %w", c.site, err)
	}
	return next, nil
}

func recoverAs(cfg Config, c Copy, highest uint64, r Recovery, changes []Op) (_ Site, err error) {
	m, unlock, err := openClosed(cfg)
	if err != nil {
		return Site{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if m.Site.ID != c.site.ID {
		return Site{}, fmt.Errorf("this node is of %v", m.Site)
	}
	next := Site{ID: c.site.ID, Generation: NextGeneration(max(highest, c.site.Generation, m.Site.Generation, m.Superseded))}
	incarnation, err := Incarnation(cfg.Dir)
	if err != nil {
		return Site{}, err
	}
	r.Site, r.From, r.Generation, r.Index = next.ID, c.site.Generation, next.Generation, c.state.index
	state, err := recovered(cfg.Identity, c, r, changes)
	if err != nil {
		return Site{}, err
	}
	if err := removeUnborn(cfg.Dir, m.Site.Generation); err != nil {
		return Site{}, err
	}
	if err := bearCopy(cfg, next, state); err != nil {
		return Site{}, err
	}
	self := raft.Server{
		Suffrage: raft.Voter, ID: serverID(cfg.Identity.ID(), incarnation),
		Address: raft.ServerAddress(cfg.Identity.ID().String()),
	}
	if err := bearRaft(cfg, dataDir(cfg.Dir, next), self, state); err != nil {
		return Site{}, err
	}
	m.Site, m.Superseded = next, 0
	m.Voter, m.Bootstrapped, m.Server, m.Founding = true, true, string(self.ID), []raft.Server{self}
	if err := writeMeta(cfg.Dir, m); err != nil {
		return Site{}, err
	}
	return next, cfg.reached("ledger.json")
}

// recovered returns the first state of the generation: the copy's, and on top of
// it the recovery record and the changes, as one decision of this node.
func recovered(identity *p2p.Identity, c Copy, r Recovery, changes []Op) (*state, error) {
	_, value, err := signRecovery(identity, r)
	if err != nil {
		return nil, err
	}
	s, err := decodeState(c.state.encode()) // one of its own
	if err != nil {
		return nil, err
	}
	t := Txn{ID: NewTxnID(), Ops: changes}.Set(RecoveryKey(r.Generation), value)
	cmd, err := encodeCommand(command{author: identity.ID(), txn: t})
	if err != nil {
		return nil, err
	}
	if res := s.apply(s.index+1, cmd); res.outcome != outcomeCommitted {
		return nil, fmt.Errorf("change the copy: outcome %d", res.outcome)
	}
	return s, nil
}

// Adopt makes this node, whose ledger must be closed, a follower in the
// generation of c. From its first step on the node neither votes nor decides in
// the old one, whose Raft state stays where nothing reads it. CheckSuccession
// comes first. A power cut leaves the node in the old generation without a vote,
// or in the new one.
func Adopt(cfg Config, c Copy) error {
	if err := adopt(cfg, c); err != nil {
		return fmt.Errorf("adopt %v: %w", c.site, err)
	}
	return nil
}

func adopt(cfg Config, c Copy) (err error) {
	m, unlock, err := openClosed(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if m.Site.ID != c.site.ID || !Supersedes(c.site.Generation, m.Site.Generation) {
		return fmt.Errorf("it does not follow %v", m.Site)
	}
	m.Superseded = c.site.Generation
	if err := errors.Join(writeMeta(cfg.Dir, m), cfg.reached("superseded")); err != nil {
		return err
	}
	if err := removeUnborn(cfg.Dir, m.Site.Generation); err != nil {
		return err
	}
	if err := bearCopy(cfg, c.site, c.state); err != nil {
		return err
	}
	m.Site, m.Superseded = c.site, 0
	m.Voter, m.Bootstrapped, m.Server, m.Founding = false, false, "", nil
	return errors.Join(writeMeta(cfg.Dir, m), cfg.reached("ledger.json"))
}

// openClosed reads what a ledger says of itself and keeps others from opening it.
func openClosed(cfg Config) (meta, func() error, error) {
	m, err := readMeta(cfg.Dir)
	if err != nil {
		return meta{}, nil, err
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return meta{}, nil, err
	}
	return m, lock.Close, nil
}

// bearCopy writes the copy of a generation that is not there yet.
func bearCopy(cfg Config, site Site, s *state) error {
	dir := dataDir(cfg.Dir, site)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return err
	}
	disk := cfg.disk
	if disk == nil {
		disk = realDisk{}
	}
	var nobody p2p.Notifier
	r, err := openReplica(dir, site, disk, &nobody)
	if err != nil {
		return err
	}
	return errors.Join(r.writeSnapshot(s), r.close(), syncDir(cfg.Dir), cfg.reached("copy.snapshot"))
}

// bearRaft writes the Raft state of a cluster of one that begins with s: a
// snapshot, and a term. It is what raft.RecoverCluster leaves, made without a
// log: a follower's copy has none.
func bearRaft(cfg Config, dir string, self raft.Server, s *state) error {
	dir = filepath.Join(dir, raftDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	log := raftLogger(cfg.logger())
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, log)
	if err != nil {
		return fmt.Errorf("make Raft snapshot: %w", err)
	}
	servers := raft.Configuration{Servers: []raft.Server{self}}
	_, trans := raft.NewInmemTransport(self.Address) // only encodes the configuration
	sink, err := snaps.Create(raft.SnapshotVersionMax, s.index, 1, servers, s.index, trans)
	if err != nil {
		return fmt.Errorf("make Raft snapshot: %w", err)
	}
	if err := snapshot(s.encode()).Persist(sink); err != nil {
		return err
	}
	w, err := openLog(dir, log)
	if err != nil {
		return fmt.Errorf("make Raft log: %w", err)
	}
	err = w.SetUint64([]byte(termKey), 1)
	return errors.Join(err, w.Close(), syncDir(filepath.Dir(dir)), cfg.reached("raft"))
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// returning is how long a node that comes back is ready to hear that its site went
// on without it. Lost masters that return together elect a coordinator within
// seconds, and must give way all the same, to a worker if all masters were lost.
const returning = time.Minute

// Succession looks, in the copies of those nodes, for a higher generation to
// which this node has to give way, and returns the copy. It fails with
// ErrNotVouched when what they show is not to be believed.
func (l *Ledger) Succession(ctx context.Context, from []peer.ID, generation uint64) (Copy, error) {
	var all error
	for _, id := range from {
		c, err := FetchCopy(ctx, l.cfg.Host, id, Site{ID: l.site.ID, Generation: generation})
		if err == nil {
			_, known := l.Coordinator()
			settled := time.Since(l.opened) > returning
			err = CheckSuccession(l.View(), l.site, known && settled && l.superseded == 0, c)
		}
		if err == nil {
			return c, nil
		}
		all = errors.Join(all, err)
	}
	return Copy{}, all
}
