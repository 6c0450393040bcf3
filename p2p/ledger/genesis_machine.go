package ledger

import (
	"fmt"
	"maps"
	"slices"
)

// The protocol in one paragraph. A proposer asks every founder for a promise; a
// founder gives one only while it has no other. With all promises in hand the
// founding masters vote: single-decree Paxos, whose value is "commit" or
// "abort", with the proposer's ballot 0 as the fast path. A majority of equal
// votes on one ballot is the outcome, for ever. "Commit" can only be voted for
// with all promises, so two sites never share a founder; "abort" frees those
// who promised, and as it needs the majority that the site's Raft would need
// to elect anybody, an aborted site can never start. Whoever notices that the
// proposer is gone takes over with a higher ballot: it must repeat what a
// majority may already have chosen, and is free to abort otherwise. So the
// founding is blocked only while a majority of its masters is away.
//
// What a vote of more than one round buys over "refuse once, for ever": with
// three masters, of which one voted to commit, one refused and one died, nobody
// could finish or give up before the dead one came back.

const (
	// maxAttempts bounds the undecided records that a node remembers. Each is
	// driven to an outcome, so there are rarely two.
	maxAttempts = 32
	// maxAborted bounds the aborted sites a node remembers; it must not forget
	// one, so it stops promising instead. With one attempt in ten seconds it is
	// reached after a day of failing.
	maxAborted = 8192
	// maxAbortProofs is for how many of them the proof is kept. Without it the
	// masters prove the outcome again, by voting.
	maxAbortProofs = 16
)

// machine is the founding of a site as seen by one node: messages and ticks go
// in, state to persist and messages to send come out ([machine.Output]). It does
// no I/O, reads no clock and is not safe for concurrent use.
type machine struct {
	cfg       machineConfig
	state     foundingState
	attempts  map[string]*attempt
	alive     map[string]bool
	patience  int      // ticks for which there was something to propose, and nobody did
	elsewhere string   // a site that exists without this node
	inbox     []letter // messages to ourselves
	out       output
}

type machineConfig struct {
	Self        string // peer ID
	Incarnation string
	Witness     bool // a member: helps others to an outcome, never promises
	Sign        func(context string, msg []byte) ([]byte, error)
	Verify      verifier
	Ticks       foundingTicks
}

// foundingTicks counts waiting times in calls of [machine.Tick].
type foundingTicks struct {
	Retry   int // between repetitions of an unanswered message
	Propose int // for which a node leaves proposing to each lower ID
	Stagger int // for which a node leaves taking over to each lower ID
	Abort   int // for which a needed founder is gone before the attempt is given up
	Stall   int // after which an attempt is given up for whatever reason
}

// foundingState is what has to be on disk before a message leaves.
type foundingState struct {
	Version  int            `json:"version"`
	Attempts []attemptState `json:"attempts,omitempty"`
	Founded  *Certificate   `json:"founded,omitempty"`
	Aborted  []abortedSite  `json:"aborted,omitempty"`
	Proofs   []Abort        `json:"proofs,omitempty"`
	// Abandoned are the attempts that an operator took this node out of.
	Abandoned []string `json:"abandoned,omitempty"`
}

type abortedSite struct {
	Site   string `json:"site"`
	Ballot Ballot `json:"ballot"`
}

// attemptState is one undecided record: this node's promise to it, and its
// voice as one of the masters.
type attemptState struct {
	Genesis  Genesis     `json:"genesis"`
	Promise  *Promise    `json:"promise,omitempty"`
	Prepared Ballot      `json:"prepared"`
	Accepted *acceptance `json:"accepted,omitempty"`
	Driven   uint64      `json:"driven,omitempty"` // last round of our own: a ballot is used once
}

// attempt adds what may be lost in a crash.
type attempt struct {
	attemptState
	promises map[string]Promise
	refusals map[string]string // founder -> why
	drive    *drive
	age      int    // ticks since it was seen first, or since the start
	gone     int    // ticks for which a needed founder was not alive
	overdue  int    // ticks for which somebody should have taken over
	backoff  int    // ticks to leave to whoever outbid us
	highest  uint64 // round of the highest ballot that we lost to
	yield    bool   // the proposer gives up in favour of another record
}

type letter struct {
	Peer    string // sender or receiver
	Message genesisMessage
}

// output is to be carried out in this order: persist State if it is not nil,
// then send. Err means that nothing may be persisted or sent.
type output struct {
	State *foundingState
	Send  []letter
	Err   error
}

func newMachine(cfg machineConfig, state foundingState) *machine {
	m := &machine{cfg: cfg, state: state, attempts: make(map[string]*attempt), alive: map[string]bool{cfg.Self: true}}
	for _, s := range state.Attempts {
		m.attempts[s.Genesis.Site] = newAttempt(s)
	}
	return m
}

func newAttempt(s attemptState) *attempt {
	a := &attempt{attemptState: s, promises: make(map[string]Promise), refusals: make(map[string]string)}
	if s.Promise != nil {
		a.promises[s.Promise.Founder] = *s.Promise
	}
	return a
}

// Output returns what has come up since the last call.
func (m *machine) Output() output {
	out := m.out
	m.out = output{}
	return out
}

// Founded returns the outcome once there is a site of which this node is a
// founder.
func (m *machine) Founded() (Certificate, bool) {
	if m.state.Founded == nil {
		return Certificate{}, false
	}
	return *m.state.Founded, true
}

// Tick is to be called at even intervals with the peers that are seen alive and
// the record that this node would propose, or nil.
func (m *machine) Tick(alive []string, offer *Genesis) {
	m.alive = map[string]bool{m.cfg.Self: true}
	for _, id := range alive {
		m.alive[id] = true
	}
	for _, site := range slices.Sorted(maps.Keys(m.attempts)) {
		if a := m.attempts[site]; a != nil {
			m.tickAttempt(a)
		}
	}
	m.considerProposing(offer)
	m.settle()
}

// Step takes a message that came from the authenticated peer from. A message
// that is malformed, forged or out of place changes nothing.
func (m *machine) Step(from string, msg genesisMessage) {
	m.alive[from] = true // until the next tick knows better
	m.step(from, msg)
	m.settle()
}

// settle delivers what the machine said to itself and collects what is to be
// persisted.
func (m *machine) settle() {
	for len(m.inbox) > 0 {
		next := m.inbox[0]
		m.inbox = m.inbox[1:]
		m.step(next.Peer, next.Message)
	}
	if m.out.State == nil {
		return
	}
	m.state.Version = foundingStateVersion
	m.state.Attempts = nil
	for _, site := range slices.Sorted(maps.Keys(m.attempts)) {
		m.state.Attempts = append(m.state.Attempts, m.attempts[site].attemptState)
	}
	state := m.state
	m.out.State = &state
}

func (m *machine) persist() { m.out.State = &m.state }

func (m *machine) send(to string, msg genesisMessage) {
	if to == m.cfg.Self {
		m.inbox = append(m.inbox, letter{to, msg})
		return
	}
	m.out.Send = append(m.out.Send, letter{to, msg})
}

// broadcast sends to all that are alive: to others it would be in vain.
func (m *machine) broadcast(to []string, msg genesisMessage) {
	for _, id := range to {
		if m.alive[id] && id != m.cfg.Self {
			m.send(id, msg)
		}
	}
}

func (m *machine) sign(context string, msg []byte) []byte {
	sig, err := m.cfg.Sign(context, msg)
	if err != nil {
		m.out.Err = err
	}
	return sig
}

func (m *machine) step(from string, msg genesisMessage) {
	if msg.check() != nil {
		return
	}
	if msg.Genesis != nil && msg.Genesis.Validate() != nil {
		return
	}
	if m.refuseAbandoned(from, msg) || m.tellOutcome(from, msg) {
		return
	}
	switch msg.Kind {
	case kindAsk:
		m.onAsk(from, *msg.Genesis)
	case kindPromised:
		m.onPromised(from, *msg.Promise)
	case kindRefused:
		m.onRefused(from, msg)
	case kindPrepare:
		m.onPrepare(from, msg)
	case kindPrepared:
		m.onPrepared(from, msg)
	case kindOutbid:
		m.onOutbid(msg)
	case kindAccept:
		m.onAccept(from, msg)
	case kindVoted:
		m.onVoted(from, *msg.Vote)
	case kindFounded:
		m.onFounded(*msg.Certificate)
	case kindAborted:
		m.onAborted(*msg.Abort)
	}
}

// tellOutcome answers whoever still works on an attempt that is decided.
func (m *machine) tellOutcome(from string, msg genesisMessage) (told bool) {
	if f := m.state.Founded; f != nil && f.Genesis.Site == msg.Site {
		if msg.Kind != kindFounded && from != m.cfg.Self {
			m.send(from, genesisMessage{Kind: kindFounded, Site: msg.Site, Certificate: f})
		}
		return true
	}
	i := slices.IndexFunc(m.state.Aborted, func(s abortedSite) bool { return s.Site == msg.Site })
	if i < 0 {
		return false
	}
	for _, proof := range m.state.Proofs {
		if proof.Genesis.Site == msg.Site {
			if msg.Kind != kindAborted && msg.Kind != kindRefused && from != m.cfg.Self {
				m.send(from, genesisMessage{Kind: kindAborted, Site: msg.Site, Abort: &proof})
			}
			return true
		}
	}
	// The proof is forgotten, the outcome is not. A vote for what was chosen
	// can be given again, on any ballot.
	switch chosen := m.state.Aborted[i].Ballot; {
	case msg.Kind == kindAsk:
		m.send(from, genesisMessage{Kind: kindRefused, Site: msg.Site, Reason: "this attempt was aborted"})
	case msg.Kind == kindPrepare && msg.Genesis.Master(m.cfg.Self):
		m.send(from, genesisMessage{Kind: kindPrepared, Site: msg.Site, Ballot: msg.Ballot, Accepted: &acceptance{Ballot: chosen}})
	case msg.Kind == kindAccept && msg.Genesis.Master(m.cfg.Self) && !msg.Accepted.Commit:
		m.vote(from, *msg.Genesis, *msg.Accepted)
	}
	return true
}

// considerProposing proposes when nobody with a lower ID does. The order only
// saves work: any number of proposers is safe.
func (m *machine) considerProposing(offer *Genesis) {
	if offer == nil || m.bound() != nil || m.state.Founded != nil || m.cfg.Witness || m.elsewhere != "" {
		m.patience = min(m.patience, 0)
		return
	}
	m.patience++
	if m.patience <= m.rank(offer.Founders)*m.cfg.Ticks.Propose {
		return
	}
	g := *offer
	if g.Proposer != m.cfg.Self || g.Validate() != nil || m.refuse(g) != nil {
		return
	}
	m.promise(g)
}

// rank is how many of those nodes are alive and have a lower ID.
func (m *machine) rank(of []string) int {
	n := 0
	for _, id := range of {
		if m.alive[id] && id < m.cfg.Self {
			n++
		}
	}
	return n
}

// bound returns the attempt to which this node has promised itself.
func (m *machine) bound() *attempt {
	for _, a := range m.attempts {
		if a.Promise != nil {
			return a
		}
	}
	return nil
}

// refuse returns why this node does not promise itself to g, or nil.
func (m *machine) refuse(g Genesis) *genesisMessage {
	no := &genesisMessage{Kind: kindRefused, Site: g.Site}
	switch bound := m.bound(); {
	case m.state.Founded != nil:
		no.Certificate = m.state.Founded
		no.Reason = "is a founder of site " + m.state.Founded.Genesis.Site
	case m.cfg.Witness:
		no.Reason = "is a member of a site"
	case bound != nil && bound.Genesis.Digest() != g.Digest():
		no.Genesis = &bound.Genesis
		no.Reason = "has promised itself to the attempt of " + bound.Genesis.Proposer
	case len(m.state.Aborted) >= maxAborted || len(m.attempts) >= maxAttempts:
		no.Reason = "has seen too many founding attempts fail; wipe its state directory"
	default:
		return nil
	}
	return no
}

// promise binds this node to g, durably before anybody hears of it.
func (m *machine) promise(g Genesis) {
	a := m.attempts[g.Site]
	if a == nil {
		a = newAttempt(attemptState{Genesis: g})
		m.attempts[g.Site] = a
	}
	p := Promise{Site: g.Site, Record: g.Digest(), Founder: m.cfg.Self, Incarnation: m.cfg.Incarnation}
	p.Signature = m.sign(promiseContext, p.message())
	a.Promise = &p
	a.promises[p.Founder] = p
	a.age = 1 // said once, below
	m.patience = 0
	m.persist()
	m.pursue(a)
}

func (m *machine) onAsk(from string, g Genesis) {
	if !g.Founder(m.cfg.Self) || !g.Founder(from) {
		return
	}
	a := m.attempts[g.Site]
	if a != nil && a.Genesis.Digest() != g.Digest() {
		return // two records under one random site ID: somebody lies
	}
	if a != nil && a.Promise != nil {
		m.send(from, a.promised())
		return
	}
	no := m.refuse(g)
	if no == nil && from != g.Proposer {
		// Who takes over is about to end the attempt; a first promise now would
		// only tie this node to it.
		no = &genesisMessage{Kind: kindRefused, Site: g.Site, Reason: "has not promised before its proposer was gone"}
	}
	if no == nil {
		m.promise(g)
		return
	}
	if mine := m.bound(); mine != nil && mine.Genesis.Proposer == m.cfg.Self && g.Proposer < m.cfg.Self {
		mine.yield = true
	}
	m.send(from, *no)
}

func (a *attempt) promised() genesisMessage {
	return genesisMessage{Kind: kindPromised, Site: a.Genesis.Site, Promise: a.Promise}
}

func (m *machine) onPromised(from string, p Promise) {
	a := m.attempts[p.Site]
	if a == nil || p.Founder != from {
		return
	}
	if _, known := a.promises[from]; known || verifyPromise(a.Genesis, p, m.cfg.Verify) != nil {
		return
	}
	a.promises[p.Founder] = p
	delete(a.refusals, p.Founder)
	m.advance(a)
}

func (m *machine) onRefused(from string, msg genesisMessage) {
	a := m.attempts[msg.Site]
	if a == nil || !a.Genesis.Founder(from) {
		return
	}
	a.refusals[from] = msg.Reason
	if c := msg.Certificate; c != nil {
		m.onFounded(*c)
	}
	if a.Genesis.Proposer == m.cfg.Self {
		// Who is bound to a record with a higher proposer will be free soon:
		// that proposer yields. Everybody else is not to be had.
		a.yield = a.yield || msg.Genesis == nil || msg.Genesis.Proposer < m.cfg.Self
	}
}

func (m *machine) onFounded(c Certificate) {
	if m.state.Founded != nil || m.abandoned(c.Genesis.Site) || c.verify(m.cfg.Verify) != nil {
		return
	}
	if !c.Genesis.Founder(m.cfg.Self) {
		m.elsewhere = c.Genesis.Site
		return
	}
	if c.Incarnation(m.cfg.Self) != m.cfg.Incarnation {
		return // promised by a storage that is gone: this one has no part in it (S5)
	}
	m.state.Founded = &c
	delete(m.attempts, c.Genesis.Site)
	m.persist()
}

func (m *machine) onAborted(proof Abort) {
	if proof.verify(m.cfg.Verify) != nil || len(m.state.Aborted) >= maxAborted {
		return
	}
	site := proof.Genesis.Site
	if a := m.attempts[site]; a != nil && a.Genesis.Digest() != proof.Genesis.Digest() {
		return
	}
	delete(m.attempts, site)
	m.state.Aborted = append(slices.Clip(m.state.Aborted), abortedSite{site, proof.Votes[0].Ballot})
	m.state.Proofs = append(slices.Clip(m.state.Proofs), proof)
	if n := len(m.state.Proofs); n > maxAbortProofs {
		m.state.Proofs = slices.Clone(m.state.Proofs[n-maxAbortProofs:])
	}
	// A pause, so that whoever made this attempt fail can ask first.
	m.patience = -2 * m.cfg.Ticks.Retry
	m.persist()
}

func sortedValues[V any](m map[string]V) []V {
	out := make([]V, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

func (t foundingTicks) validate() error {
	if lowest := min(t.Retry, t.Propose, t.Stagger, t.Abort, t.Stall); lowest < 1 {
		return fmt.Errorf("founding: every waiting time must be at least one tick, the shortest is %d", lowest)
	}
	if t.Abort > t.Stall {
		return fmt.Errorf("founding: an attempt must stall (%d ticks) no sooner than a founder counts as gone (%d)", t.Stall, t.Abort)
	}
	return nil
}
