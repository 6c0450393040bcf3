package ledger

// drive is this node's try to bring an attempt to its outcome.
type drive struct {
	ballot   Ballot
	voting   bool                   // false: preparing
	prepared map[string]*acceptance // master -> how it voted last, nil if it did not
	value    acceptance
	votes    map[string]Vote
}

// tickAttempt repeats what got no answer and notices what does not move.
func (m *machine) tickAttempt(a *attempt) {
	t := m.cfg.Ticks
	if a.age%t.Retry == 0 {
		m.pursue(a)
	}
	a.age++
	if m.lacksSomebody(a) {
		a.gone++
	} else {
		a.gone = 0
	}
	if !m.needsTakeover(a) {
		a.overdue = 0
	} else if a.overdue++; a.overdue > m.rank(a.Genesis.Founders)*t.Stagger+a.backoff || a.yield {
		if a.drive == nil || a.drive.ballot.Round == 0 {
			m.takeOver(a)
		}
	}
	m.advance(a)
}

// lacksSomebody says whether a founder that the attempt still needs is away.
func (m *machine) lacksSomebody(a *attempt) bool {
	if !m.alive[a.Genesis.Proposer] {
		return true
	}
	for _, id := range a.Genesis.Founders {
		if _, ok := a.promises[id]; !ok && !m.alive[id] {
			return true
		}
	}
	return false
}

func (m *machine) needsTakeover(a *attempt) bool {
	return !m.alive[a.Genesis.Proposer] || m.mayAbort(a)
}

func (m *machine) mayAbort(a *attempt) bool {
	return a.yield || a.gone >= m.cfg.Ticks.Abort || a.age >= m.cfg.Ticks.Stall
}

// pursue says again whatever has not been answered.
func (m *machine) pursue(a *attempt) {
	g := a.Genesis
	if g.Proposer == m.cfg.Self && a.Promise != nil || a.drive != nil {
		for _, id := range g.Founders {
			if _, ok := a.promises[id]; !ok && m.alive[id] && id != m.cfg.Self {
				m.send(id, genesisMessage{Kind: kindAsk, Site: g.Site, Genesis: &g})
			}
		}
	}
	if a.Promise != nil {
		m.broadcast(g.Founders, a.promised())
	}
	if d := a.drive; d != nil {
		m.canvass(a, d)
	}
	m.advance(a)
}

// canvass asks those masters that have not answered on this ballot.
func (m *machine) canvass(a *attempt, d *drive) {
	g := a.Genesis
	for _, id := range g.Masters {
		if !m.alive[id] {
			continue
		}
		if _, ok := d.prepared[id]; !d.voting && !ok {
			m.send(id, genesisMessage{Kind: kindPrepare, Site: g.Site, Genesis: &g, Ballot: d.ballot})
		}
		if _, ok := d.votes[id]; d.voting && !ok {
			value := d.value
			m.send(id, genesisMessage{Kind: kindAccept, Site: g.Site, Genesis: &g, Ballot: d.ballot, Accepted: &value})
		}
	}
}

func (m *machine) takeOver(a *attempt) {
	a.Driven = max(a.highest, a.Prepared.Round, a.Driven) + 1
	a.overdue, a.backoff = 0, 0
	a.drive = newDrive(Ballot{Round: a.Driven, By: m.cfg.Self})
	m.persist()
	m.pursue(a)
}

func newDrive(b Ballot) *drive {
	return &drive{ballot: b, prepared: make(map[string]*acceptance), votes: make(map[string]Vote)}
}

// advance takes the attempt as far as what is known allows.
func (m *machine) advance(a *attempt) {
	if m.attempts[a.Genesis.Site] != a {
		return // decided meanwhile
	}
	g := a.Genesis
	complete := len(a.promises) == len(g.Founders)
	if a.drive == nil && complete && g.Proposer == m.cfg.Self && max(a.highest, a.Prepared.Round, a.Driven) == 0 {
		// Ballot 0 is the proposer's alone and can only ever carry "commit":
		// there is nothing to ask for beforehand.
		a.drive = newDrive(Ballot{})
		m.nominate(a, true, sortedValues(a.promises))
	}
	d := a.drive
	if d == nil {
		return
	}
	if !d.voting && len(d.prepared) >= g.Quorum() {
		switch last := d.lastVote(); {
		case last != nil:
			m.nominate(a, last.Commit, last.Promises)
		case complete:
			m.nominate(a, true, sortedValues(a.promises))
		case m.mayAbort(a):
			m.nominate(a, false, nil)
		}
	}
	if d.voting && len(d.votes) >= g.Quorum() {
		m.conclude(a, d)
	}
}

// lastVote returns the vote on the highest ballot: it may have been chosen.
func (d *drive) lastVote() (last *acceptance) {
	for _, vote := range d.prepared {
		if vote != nil && (last == nil || last.Ballot.Less(vote.Ballot)) {
			last = vote
		}
	}
	return last
}

func (m *machine) nominate(a *attempt, commit bool, promises []Promise) {
	d := a.drive
	d.voting = true
	d.value = acceptance{Ballot: d.ballot, Commit: commit, Promises: promises}
	m.canvass(a, d)
}

func (m *machine) conclude(a *attempt, d *drive) {
	g, votes := a.Genesis, sortedValues(d.votes)
	if d.value.Commit {
		c := Certificate{Genesis: g, Promises: d.value.Promises, Votes: votes}
		m.broadcast(g.Founders, genesisMessage{Kind: kindFounded, Site: g.Site, Certificate: &c})
		delete(m.attempts, g.Site)
		m.onFounded(c)
		return
	}
	proof := Abort{Genesis: g, Votes: votes}
	m.broadcast(g.Founders, genesisMessage{Kind: kindAborted, Site: g.Site, Abort: &proof})
	m.onAborted(proof)
}

// voter returns the attempt on which this node is to vote as a master, or nil.
func (m *machine) voter(from string, msg genesisMessage) *attempt {
	g := *msg.Genesis
	owner := msg.Ballot.By
	if msg.Ballot.Round == 0 {
		owner = g.Proposer
	}
	if owner != from || !g.Founder(from) || !g.Master(m.cfg.Self) {
		return nil
	}
	a := m.attempts[g.Site]
	if a == nil {
		if len(m.attempts) >= maxAttempts {
			return nil
		}
		a = newAttempt(attemptState{Genesis: g})
		m.attempts[g.Site] = a
	}
	if a.Genesis.Digest() != g.Digest() {
		return nil
	}
	if msg.Ballot.Less(a.Prepared) {
		m.send(from, genesisMessage{Kind: kindOutbid, Site: g.Site, Ballot: a.Prepared})
		return nil
	}
	return a
}

func (m *machine) onPrepare(from string, msg genesisMessage) {
	if msg.Ballot.Round == 0 {
		return
	}
	a := m.voter(from, msg)
	if a == nil {
		return
	}
	a.Prepared = msg.Ballot
	if from != m.cfg.Self {
		a.overdue, a.backoff = 0, m.cfg.Ticks.Stagger // somebody sees to it
	}
	m.persist()
	m.send(from, genesisMessage{Kind: kindPrepared, Site: msg.Site, Ballot: msg.Ballot, Accepted: a.Accepted})
}

func (m *machine) onPrepared(from string, msg genesisMessage) {
	a := m.attempts[msg.Site]
	if a == nil || a.drive == nil || a.drive.voting || a.drive.ballot != msg.Ballot || !a.Genesis.Master(from) {
		return
	}
	if msg.Accepted != nil && !m.votable(a.Genesis, *msg.Accepted) {
		return
	}
	a.drive.prepared[from] = msg.Accepted
	m.advance(a)
}

// votable says whether a master may vote for that: to commit takes all promises.
func (m *machine) votable(g Genesis, v acceptance) bool {
	if !v.Commit {
		return v.Ballot.Round > 0
	}
	return Certificate{Genesis: g, Promises: v.Promises}.verifyPromises(m.cfg.Verify) == nil
}

func (m *machine) onOutbid(msg genesisMessage) {
	a := m.attempts[msg.Site]
	if a == nil || a.drive == nil || !a.drive.ballot.Less(msg.Ballot) {
		return
	}
	a.highest = max(a.highest, msg.Ballot.Round)
	a.drive, a.overdue, a.backoff = nil, 0, m.cfg.Ticks.Stagger
}

func (m *machine) onAccept(from string, msg genesisMessage) {
	if !m.votable(*msg.Genesis, *msg.Accepted) {
		return
	}
	a := m.voter(from, msg)
	if a == nil {
		return
	}
	a.Prepared = msg.Ballot
	a.Accepted = msg.Accepted
	m.persist()
	m.vote(from, a.Genesis, *msg.Accepted)
}

func (m *machine) vote(to string, g Genesis, value acceptance) {
	v := Vote{Site: g.Site, Record: g.Digest(), Master: m.cfg.Self, Ballot: value.Ballot, Commit: value.Commit}
	v.Signature = m.sign(voteContext, v.message())
	m.send(to, genesisMessage{Kind: kindVoted, Site: g.Site, Vote: &v})
}

func (m *machine) onVoted(from string, v Vote) {
	a := m.attempts[v.Site]
	if a == nil || a.drive == nil || !a.drive.voting || v.Master != from {
		return
	}
	d := a.drive
	if v.Ballot != d.ballot || v.Commit != d.value.Commit || verifyVote(a.Genesis, v, m.cfg.Verify) != nil {
		return
	}
	d.votes[from] = v
	m.advance(a)
}
