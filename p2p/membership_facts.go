package p2p

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const (
	// factRetransmit times log10(N+1), rounded up, is how often each node
	// passes a new fact on. Memberlist's default is 4; comparing at each join
	// catches the rare miss.
	factRetransmit = 3

	// factInbox is how many received facts wait to be checked. What does not
	// fit is pulled at the next comparison.
	factInbox = 128

	// pullQueue is how many pulls may wait; more are left to the next comparison.
	pullQueue = 1024
	// pullers is how many of ours are in hand, so that one peer that does not
	// answer holds up few; servedPulls how many of others.
	pullers     = 4
	servedPulls = 64

	digestFormat = 1
)

var errBadDigest = errors.New("bad digest of facts")

// factExchange spreads facts: a new one rides on gossip; when two nodes compare
// everything they exchange digests only, and each pulls what it lacks. As gossip
// may miss a node, each answer to a ping carries a hash of the digest, and who
// sees another one than its own pulls.
type factExchange struct {
	host    MembershipHost
	facts   *Facts
	log     *slog.Logger
	proto   protocol.ID
	timing  MembershipTiming
	queue   *memberlist.TransmitLimitedQueue
	size    atomic.Int64 // of the site, for the queue
	inbox   chan Fact
	pulls   chan pull
	serving chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	settled time.Time // since then no fact has changed
}

// pull asks a peer for what it has newer than the versions that we hold.
type pull struct {
	from peer.ID
	held map[peer.ID]uint64
	all  bool // everything newer; otherwise only of the nodes in held
}

// The first byte of a pull says which; the rest is a digest.
const (
	pullListed = 1
	pullAll    = 2
)

func newFactExchange(cfg MembershipConfig) *factExchange {
	x := &factExchange{
		host: cfg.Host, facts: cfg.Facts, log: cfg.Log, timing: cfg.Timing,
		proto:   protocol.ID("/muster/facts/1/" + cfg.Label),
		inbox:   make(chan Fact, factInbox),
		pulls:   make(chan pull, pullQueue),
		serving: make(chan struct{}, servedPulls),
	}
	x.queue = &memberlist.TransmitLimitedQueue{RetransmitMult: factRetransmit, NumNodes: func() int { return int(x.size.Load()) }}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	cfg.Host.Handle(x.proto, cfg.Access, x.serve)
	x.wg.Go(x.watch)
	x.wg.Go(x.receive)
	for range pullers {
		x.wg.Go(x.fetch)
	}
	return x
}

func (x *factExchange) close() {
	x.host.Unhandle(x.proto)
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.cancel()
	x.wg.Wait()
}

// watch puts the own fact on gossip whenever it changes, says conflicts aloud
// and keeps the disk up to date.
func (x *factExchange) watch() {
	flush := time.NewTicker(x.timing.FlushInterval)
	defer flush.Stop()
	var said uint64
	loud := make(map[peer.ID]bool)
	for {
		changed := x.facts.Changed()
		x.mu.Lock()
		x.settled = time.Now()
		x.mu.Unlock()
		if own, ok := x.facts.Get(x.host.ID()); ok && own.Version > said {
			said = own.Version
			x.broadcast(own)
		}
		conflicts := x.facts.Conflicts()
		maps.DeleteFunc(loud, func(id peer.ID, _ bool) bool { return !slices.Contains(conflicts, id) })
		for _, id := range conflicts {
			if !loud[id] {
				loud[id] = true
				x.log.Error("identity conflict: two machines use one identity; nobody plans with it until one of them is wiped", "peer", id.String())
			}
		}
		if !x.pause(changed, flush.C) {
			return
		}
	}
}

// pause flushes until something changes, and returns false at the end.
func (x *factExchange) pause(changed <-chan struct{}, flush <-chan time.Time) bool {
	for {
		select {
		case <-x.ctx.Done():
			return false
		case <-changed:
			return true
		case <-flush:
			if err := x.facts.Flush(); err != nil {
				x.log.Warn("facts of others are not on disk", "error", err)
			}
		}
	}
}

func (x *factExchange) broadcast(f Fact) {
	raw, err := f.MarshalBinary()
	if err != nil {
		x.log.Warn("fact is not passed on", "peer", f.ID.String(), "error", err)
		return
	}
	x.queue.QueueBroadcast(factBroadcast{f.ID, raw})
}

// receive takes facts off gossip. It is one goroutine: a signature costs less
// than the lock it would fight for.
func (x *factExchange) receive() {
	for {
		select {
		case <-x.ctx.Done():
			return
		case f := <-x.inbox:
			if x.merge(f) {
				x.broadcast(f)
			}
		}
	}
}

func (x *factExchange) merge(f Fact) (newer bool) {
	newer, err := x.facts.Merge(f)
	if err != nil {
		x.log.Debug("fact refused", "peer", f.ID.String(), "error", err)
	}
	return newer && err == nil && f.ID != x.host.ID()
}

func (x *factExchange) fetch() {
	for {
		select {
		case <-x.ctx.Done():
			return
		case p := <-x.pulls:
			if err := x.pull(p); err != nil && x.ctx.Err() == nil {
				x.log.Debug("facts not pulled", "peer", p.from.String(), "error", err)
			}
		}
	}
}

func (x *factExchange) pull(p pull) error {
	kind, expect := byte(pullListed), 0
	if p.all {
		kind, expect, p.held = pullAll, MaxFacts, x.facts.Digest()
	} else {
		for id, held := range p.held {
			if own, ok := x.facts.Get(id); ok && own.Version > held {
				delete(p.held, id) // came meanwhile
			}
		}
		if expect = len(p.held); expect == 0 {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(x.ctx, x.timing.StreamTimeout)
	defer cancel()
	s, err := x.host.Open(ctx, p.from, x.proto)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	defer func() { _ = s.Reset() }() // all that counts was read
	if err := writeChunk(s, append([]byte{kind}, encodeDigest(x.host.ID(), p.held)...)); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	r := bufio.NewReader(s)
	for range expect {
		raw, err := readChunk(r, maxEncodedFact)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		var f Fact
		if err := f.UnmarshalBinary(raw); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		// News of a node that is new to us is no news to the others: it said
		// so itself. An update that we missed in a partition, others missed,
		// too; one that only gossip missed, they have.
		if x.merge(f) && !p.all && p.held[f.ID] > 0 {
			x.broadcast(f)
		}
	}
	return nil
}

// serve answers a pull: the facts that are newer than what the peer holds.
func (x *factExchange) serve(s network.Stream) {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		_ = s.Reset()
		return
	}
	x.wg.Add(1)
	x.mu.Unlock()
	defer x.wg.Done()
	select {
	case x.serving <- struct{}{}:
		defer func() { <-x.serving }()
	default:
		_ = s.Reset()
		return
	}
	ctx, cancel := context.WithTimeout(x.ctx, x.timing.StreamTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	if err := x.answer(s); err != nil {
		x.log.Debug("pull of facts not answered", "peer", s.Conn().RemotePeer().String(), "error", err)
		_ = s.Reset()
		return
	}
	_ = s.Close() // the peer has everything, or asks again
}

func (x *factExchange) answer(s io.ReadWriter) error {
	raw, err := readChunk(bufio.NewReader(s), 1+maxDigest)
	if err != nil {
		return err
	}
	if len(raw) == 0 || raw[0] != pullListed && raw[0] != pullAll {
		return fmt.Errorf("%w: unknown kind of pull", errBadDigest)
	}
	_, held, err := decodeDigest(raw[1:])
	if err != nil {
		return err
	}
	w := bufio.NewWriter(s)
	for _, f := range x.facts.All() {
		version, listed := held[f.ID]
		if f.Version <= version || !listed && raw[0] == pullListed {
			continue
		}
		raw, err := f.MarshalBinary()
		if err != nil {
			return err
		}
		if err := writeChunk(w, raw); err != nil {
			return err
		}
	}
	return w.Flush()
}

// compare looks at what a peer has and pulls what is newer.
func (x *factExchange) compare(digest []byte) {
	from, theirs, err := decodeDigest(digest)
	if err != nil {
		x.log.Debug("digest refused", "error", err)
		return
	}
	p := pull{from: from, held: make(map[peer.ID]uint64)}
	ours := x.facts.Digest()
	for id, version := range theirs {
		if version > ours[id] {
			p.held[id] = ours[id]
		}
	}
	x.want(p)
}

// greet asks a node that came or came back for its own fact: gossip about it may
// have passed before we were there to hear it, and not every pair of nodes
// compares soon.
func (x *factExchange) greet(id peer.ID) {
	held, _ := x.facts.Get(id)
	x.want(pull{from: id, held: map[peer.ID]uint64{id: held.Version}})
}

func (x *factExchange) want(p pull) {
	if !p.all && len(p.held) == 0 || p.from == x.host.ID() {
		return
	}
	select {
	case x.pulls <- p:
	default: // the next comparison asks again
	}
}

// factBroadcast is a fact on gossip; a newer one of the same node replaces it.
type factBroadcast struct {
	id  peer.ID
	raw []byte
}

func (b factBroadcast) Name() string    { return string(b.id) }
func (b factBroadcast) Message() []byte { return b.raw }
func (b factBroadcast) Finished()       {}
func (b factBroadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(factBroadcast)
	return ok && o.id == b.id
}

// gossipDelegate is the side of the exchange that memberlist calls; it must not
// block.
type gossipDelegate struct {
	x    *factExchange
	meta func() []byte
}

func (x *factExchange) delegate(m *Membership) gossipDelegate {
	return gossipDelegate{x, m.meta}
}

func (d gossipDelegate) NodeMeta(int) []byte { return d.meta() }

func (d gossipDelegate) NotifyMsg(raw []byte) {
	var f Fact
	if err := f.UnmarshalBinary(raw); err != nil {
		d.x.log.Debug("fact refused", "error", err)
		return
	}
	select {
	case d.x.inbox <- f:
	default: // pulled at the next comparison
	}
}

func (d gossipDelegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.x.queue.GetBroadcasts(overhead, limit)
}

func (d gossipDelegate) LocalState(bool) []byte {
	return encodeDigest(d.x.host.ID(), d.x.facts.Digest())
}

func (d gossipDelegate) MergeRemoteState(raw []byte, _ bool) { d.x.compare(raw) }

// factsSettle is how long gossip is given before a difference counts.
const factsSettle = 2 * time.Second

// AckPayload implements [memberlist.PingDelegate].
func (d gossipDelegate) AckPayload() []byte { return digestHash(d.x.facts.Digest()) }

// NotifyPingComplete implements [memberlist.PingDelegate].
func (d gossipDelegate) NotifyPingComplete(other *memberlist.Node, _ time.Duration, payload []byte) {
	x := d.x
	id, err := peer.Decode(other.Name)
	if err != nil || len(payload) == 0 || bytes.Equal(payload, digestHash(x.facts.Digest())) {
		return
	}
	x.mu.Lock()
	settled := time.Since(x.settled) > factsSettle
	x.mu.Unlock()
	if settled {
		x.want(pull{from: id, all: true})
	}
}

// digestHash is short, as it travels all the time; a collision only delays what
// the next comparison finds.
func digestHash(versions map[peer.ID]uint64) []byte {
	h := sha256.New()
	for _, id := range slices.Sorted(maps.Keys(versions)) {
		h.Write(binary.BigEndian.AppendUint64([]byte(id), versions[id]))
	}
	return h.Sum(nil)[:8]
}

// maxDigest bounds an encoded digest, in bytes.
const maxDigest = 1 + (MaxFacts+1)*(maxPeerIDSize+2+binary.MaxVarintLen64)

// encodeDigest: format 1, the sender's peer ID, then for each fact the peer ID
// and the version. IDs come after their length, lengths and versions as unsigned
// varints.
func encodeDigest(from peer.ID, versions map[peer.ID]uint64) []byte {
	appendID := func(out []byte, id peer.ID) []byte {
		return append(binary.AppendUvarint(out, uint64(len(id))), id...)
	}
	out := appendID([]byte{digestFormat}, from)
	for id, version := range versions {
		out = binary.AppendUvarint(appendID(out, id), version)
	}
	return out
}

func decodeDigest(raw []byte) (from peer.ID, versions map[peer.ID]uint64, err error) {
	if len(raw) == 0 || len(raw) > maxDigest || raw[0] != digestFormat {
		return "", nil, fmt.Errorf("%w: unknown format or %d bytes", errBadDigest, len(raw))
	}
	r := bytes.NewReader(raw[1:])
	if from, err = readID(r); err != nil {
		return "", nil, err
	}
	versions = make(map[peer.ID]uint64)
	for r.Len() > 0 {
		id, err := readID(r)
		if err != nil {
			return "", nil, err
		}
		version, err := binary.ReadUvarint(r)
		if err != nil || len(versions) >= MaxFacts {
			return "", nil, fmt.Errorf("%w: cut short or too long", errBadDigest)
		}
		versions[id] = version
	}
	return from, versions, nil
}

func readID(r *bytes.Reader) (peer.ID, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil || n > maxPeerIDSize || n > uint64(r.Len()) {
		return "", fmt.Errorf("%w: peer ID is too long or cut short", errBadDigest)
	}
	raw := make([]byte, n)
	_, _ = r.Read(raw) // that many are there
	id, err := peer.IDFromBytes(raw)
	if err != nil {
		return "", fmt.Errorf("%w: peer ID: %v", errBadDigest, err)
	}
	return id, nil
}

// writeChunk and readChunk frame a message by its length as an unsigned varint.
func writeChunk(w io.Writer, raw []byte) error {
	_, err := w.Write(append(binary.AppendUvarint(nil, uint64(len(raw))), raw...))
	return err
}

func readChunk(r *bufio.Reader, limit int) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if n > uint64(limit) {
		return nil, fmt.Errorf("chunk of %d bytes, limit %d", n, limit)
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, fmt.Errorf("chunk is cut short: %w", err)
	}
	return raw, nil
}
