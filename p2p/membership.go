package p2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// ErrMembershipClosed is returned by calls on a closed [Membership].
var ErrMembershipClosed = errors.New("membership is closed")

// MemberStatus is what gossip says about a node.
type MemberStatus int

const (
	MemberAlive   MemberStatus = iota
	MemberSuspect              // reserved: memberlist keeps its suspicions to itself, and a suspect may yet refute
	MemberDead                 // did not answer, nor anybody on its behalf
	MemberLeft                 // said goodbye
)

func (s MemberStatus) String() string {
	switch s {
	case MemberAlive:
		return "alive"
	case MemberSuspect:
		return "suspect"
	case MemberDead:
		return "dead"
	case MemberLeft:
		return "left"
	}
	return fmt.Sprintf("MemberStatus(%d)", int(s))
}

// MemberState is a node as gossip sees it, and this node itself: one that answers
// this node is alive, whatever is said about it, as news of a death is anybody's
// word. Since is this node's own clock.
type MemberState struct {
	ID     peer.ID
	Status MemberStatus
	Since  time.Time
}

// MembershipHost is the part of [Host] that a membership uses.
type MembershipHost interface {
	ID() peer.ID
	Handle(proto protocol.ID, need Access, fn func(s network.Stream))
	Unhandle(proto protocol.ID)
	Open(ctx context.Context, to peer.ID, proto protocol.ID) (network.Stream, error)
	Peers() []Peer
	Changed() <-chan struct{}
}

// MembershipConfig is what a membership is made of. Host, Label and Facts are
// required.
type MembershipConfig struct {
	Host MembershipHost

	// Label is part of every protocol name, so that nodes with different labels
	// have nothing to say to each other: "founding", or site and generation. A
	// host has one membership per label.
	Label  string
	Access Access
	Facts  *Facts

	// Candidates are the nodes to look for; nil means whoever is connected.
	// Those that gossip does not hold alive are tried again for ever, as
	// memberlist on its own never heals a partition. It must not block.
	Candidates func() []peer.ID

	Timing MembershipTiming // zero: LANTiming
	Log    *slog.Logger     // nil: slog.Default
}

// maxLabel bounds a label, as it is sent whenever a stream is opened.
const maxLabel = 64

func (cfg *MembershipConfig) complete() error {
	if cfg.Host == nil || cfg.Facts == nil {
		return errors.New("Host and Facts are required")
	}
	if cfg.Label == "" || len(cfg.Label) > maxLabel || strings.ContainsAny(cfg.Label, "/ ") {
		return fmt.Errorf("label %q must have 1 to %d characters, none of them a slash or a space", cfg.Label, maxLabel)
	}
	if cfg.Timing == (MembershipTiming{}) {
		cfg.Timing = LANTiming()
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.Log = cfg.Log.With("component", "membership", "label", cfg.Label)
	return cfg.Timing.validate()
}

// leftMeta is what a node says about itself before it leaves; memberlist keeps
// to itself whether a node left or died.
var leftMeta = []byte("left")

// Membership knows which nodes are alive (SWIM with Lifeguard, by
// hashicorp/memberlist over the host's streams) and spreads [Facts] among them.
// All methods may be called at the same time.
type Membership struct {
	cfg       MembershipConfig
	log       *slog.Logger
	transport *gossipTransport
	exchange  *factExchange
	list      *memberlist.Memberlist
	changed   Notifier
	ctx       context.Context // ends at Close
	cancel    context.CancelFunc
	wg        sync.WaitGroup

	listMu sync.Mutex // Leave and Close of memberlist exclude each other
	closed bool

	mu      sync.Mutex
	leaving bool
	members map[peer.ID]MemberState // as gossip has it
	answers map[peer.ID]time.Time   // since when nodes that gossip calls dead or left answer this one
}

// JoinMembership takes part in the gossip among those with the same label, from
// now until [Membership.Close].
func JoinMembership(cfg MembershipConfig) (*Membership, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("join membership: %w", err)
	}
	m := &Membership{cfg: cfg, log: cfg.Log, members: make(map[peer.ID]MemberState), answers: make(map[peer.ID]time.Time)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.transport = newGossipTransport(cfg)
	m.exchange = newFactExchange(cfg)

	list, err := memberlist.Create(m.listConfig())
	if err != nil {
		m.cancel()
		_ = m.transport.Shutdown() // memberlist may have done so: it may be done twice
		m.exchange.close()
		return nil, fmt.Errorf("join membership: %w", err)
	}
	m.list = list
	m.wg.Go(m.rejoin)
	return m, nil
}

func (m *Membership) listConfig() *memberlist.Config {
	t := m.cfg.Timing
	c := memberlist.DefaultLANConfig()
	c.Name = m.cfg.Host.ID().String()
	c.Transport = m.transport
	c.RequireNodeNames = true
	c.DisableTcpPings = true // the same path again: no new evidence
	c.ProbeInterval, c.ProbeTimeout = t.ProbeInterval, t.ProbeTimeout
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = t.SuspicionMult, t.SuspicionMaxMult
	c.GossipInterval, c.PushPullInterval = t.GossipInterval, t.PushPullInterval
	c.RetransmitMult = factRetransmit
	c.TCPTimeout = t.StreamTimeout
	c.UDPBufferSize = maxGossipPacket
	c.EnableCompression = false // pings are incompressible names, and an expander is one thing less to attack
	delegate := m.exchange.delegate(m)
	c.Delegate, c.Ping = delegate, delegate
	c.Events, c.Alive = m, m
	c.Logger = slogWriter(m.log)
	return c
}

// Members returns every node that was ever seen since the start, this one
// included, sorted by ID.
func (m *Membership) Members() []MemberState {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]MemberState, 0, len(m.members))
	for id, s := range m.members {
		if since, answers := m.answers[id]; answers {
			s.Status, s.Since = MemberAlive, since
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b MemberState) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out
}

// Alive returns the nodes that are alive, this one included, sorted by ID.
func (m *Membership) Alive() []peer.ID {
	var out []peer.ID
	for _, s := range m.Members() {
		if s.Status == MemberAlive {
			out = append(out, s.ID)
		}
	}
	return out
}

// Changed is closed when the status of a node changes.
func (m *Membership) Changed() <-chan struct{} { return m.changed.Changed() }

// Leave says goodbye, so that nobody waits for this node. It returns when the
// news is on its way, or with the context's end. Close is still needed.
func (m *Membership) Leave(ctx context.Context) error {
	m.mu.Lock()
	m.leaving = true
	m.mu.Unlock()
	m.transport.leave()
	done := make(chan error, 1)
	m.listMu.Lock()
	if m.closed {
		m.listMu.Unlock()
		return ErrMembershipClosed
	}
	m.wg.Go(func() {
		defer m.listMu.Unlock()
		// Twice the time that a message needs to reach its retransmit limit.
		const patience = 2 * time.Second
		done <- errors.Join(m.list.UpdateNode(patience), m.list.Leave(patience))
	})
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("leave membership: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("leave membership: %w", ctx.Err())
	}
}

// Close ends this node's part without a goodbye: others will find it dead. A
// probe that memberlist has in hand still waits for its answer, for at most
// a few ProbeIntervals, and touches nothing of ours.
func (m *Membership) Close() error {
	m.mu.Lock()
	m.cancel() // nothing is noted from here on
	m.mu.Unlock()
	m.listMu.Lock()
	if m.closed {
		m.listMu.Unlock()
		return nil
	}
	m.closed = true
	err := m.list.Shutdown()
	m.listMu.Unlock()
	m.wg.Wait()
	m.exchange.close()
	if ferr := m.cfg.Facts.Flush(); ferr != nil {
		err = errors.Join(err, ferr)
	}
	return err
}

// NotifyAlive implements [memberlist.AliveDelegate]: a node is its peer ID, and
// its address follows from that, so nobody can take another's name.
func (m *Membership) NotifyAlive(n *memberlist.Node) error {
	id, err := peer.Decode(n.Name)
	if err != nil {
		return fmt.Errorf("name is not a peer ID: %w", err)
	}
	if !n.Addr.Equal(gossipIP(id)) || n.Port != gossipPort {
		return fmt.Errorf("address %s is not the one of %s", net.IP(n.Addr), n.Name)
	}
	if m.refuses(id) {
		return fmt.Errorf("%s is no member, and %d others that are none were heard of", n.Name, maxUnexpected)
	}
	return nil
}

// maxUnexpected bounds the nodes that are not known to be members, of which a
// liar can invent any number. A newcomer's news may be ahead of the decision
// that let it in.
const maxUnexpected = 128

// tooManyUnexpected tells whether a node that is new is one too many beside those
// that are held, which it may change.
func tooManyUnexpected(id peer.ID, held []peer.ID, expected func(peer.ID) bool) bool {
	return len(held) >= maxUnexpected && !expected(id) && len(slices.DeleteFunc(held, expected)) >= maxUnexpected
}

// refuses tells whether a node is one too many to be heard of.
func (m *Membership) refuses(id peer.ID) bool {
	m.mu.Lock()
	_, heard := m.members[id]
	var held []peer.ID
	if !heard && len(m.members) >= maxUnexpected {
		held = slices.Collect(maps.Keys(m.members))
	}
	m.mu.Unlock()
	if len(held) == 0 || m.cfg.Candidates == nil {
		return false
	}
	candidates := map[peer.ID]bool{m.cfg.Host.ID(): true}
	for _, candidate := range m.cfg.Candidates() {
		candidates[candidate] = true
	}
	return tooManyUnexpected(id, held, func(id peer.ID) bool { return candidates[id] })
}

// NotifyJoin implements [memberlist.EventDelegate].
func (m *Membership) NotifyJoin(n *memberlist.Node) { m.note(n, MemberAlive) }

// NotifyLeave implements [memberlist.EventDelegate].
func (m *Membership) NotifyLeave(n *memberlist.Node) {
	if bytes.Equal(n.Meta, leftMeta) {
		m.note(n, MemberLeft)
		return
	}
	m.note(n, MemberDead)
}

// NotifyUpdate implements [memberlist.EventDelegate].
func (m *Membership) NotifyUpdate(*memberlist.Node) {}

func (m *Membership) note(n *memberlist.Node, status MemberStatus) {
	id, err := peer.Decode(n.Name)
	if err != nil {
		return // NotifyAlive refused it
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return // memberlist's suspicions outlive its shutdown
	}
	m.members[id] = MemberState{ID: id, Status: status, Since: time.Now()}
	delete(m.answers, id)
	alive := 0
	for _, s := range m.members {
		if s.Status == MemberAlive {
			alive++
		}
	}
	m.exchange.size.Store(int64(alive))
	if status == MemberAlive {
		m.exchange.greet(id)
	}
	m.log.Info("member "+status.String(), "peer", n.Name)
	m.changed.Notify()
}

// tried notes whether a node that gossip does not hold alive answered this one.
func (m *Membership) tried(id peer.ID, answered bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, heard := m.members[id]
	_, before := m.answers[id]
	switch {
	case !heard || s.Status == MemberAlive || m.ctx.Err() != nil || answered == before:
		return
	case answered:
		m.answers[id] = time.Now()
		m.log.Info("member answers, though gossip calls it "+s.Status.String(), "peer", id.String())
	default:
		delete(m.answers, id)
		s.Since = time.Now()
		m.members[id] = s
		m.log.Info("member answers no more", "peer", id.String())
	}
	m.changed.Notify()
}

// answering are the nodes that answer although gossip does not hold them alive.
func (m *Membership) answering() []peer.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.answers))
}

func (m *Membership) meta() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leaving {
		return leftMeta
	}
	return nil
}

func (m *Membership) isAlive(id peer.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.members[id]
	return ok && s.Status == MemberAlive
}
