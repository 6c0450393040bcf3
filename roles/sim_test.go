package roles

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// machine is one node of a simulated site: what is true about it, whoever knows.
type machine struct {
	Candidate
	up     bool
	cut    bool   // up, but the others do not hear it
	copy   *State // of the ledger, as old as the cut; nil: up to date
	ready  bool
	caHash string
	data   Data // of Kubernetes, Epoch 0: none
	lease  bool
	votes  bool
	listed []string // members of etcd, when its own last answered
}

// simulation is a site in virtual time: machines, the ledger's state, and one coordinator with its own observations. The
// transcripts and the property tests both drive it.
type simulation struct {
	now         time.Duration
	machines    map[NodeID]*machine
	state       *State // nil: not founded
	coordinator NodeID
	office      time.Duration            // when the coordinator took office
	heard       map[NodeID]bool          // of whom the coordinator has facts
	lastSeen    map[NodeID]time.Duration // when the coordinator saw the machine change
	joined      uint64
	etcd        map[string]NodeID // members by ID
	members     int               // of etcd that there ever were
}

func newSimulation() *simulation {
	return &simulation{etcd: map[string]NodeID{}, machines: map[NodeID]*machine{}, heard: map[NodeID]bool{}, lastSeen: map[NodeID]time.Duration{}}
}

func (s *simulation) powerOn(c Candidate) *machine {
	m := &machine{Candidate: c, up: true}
	s.machines[c.ID] = m
	s.see(c.ID)
	return m
}

func (s *simulation) setUp(id NodeID, up bool) {
	m := s.machines[id]
	if m.up != up {
		m.up = up
		m.ready = m.ready && up
		s.see(id)
	}
}

// cutOff takes a machine from the network; its copy of the ledger stays as it is.
func (s *simulation) cutOff(id NodeID) {
	m := s.machines[id]
	if !m.cut {
		copied := s.state.clone()
		m.cut, m.copy = true, &copied
		s.see(id)
	}
}

func (s *simulation) rejoin(id NodeID) {
	m := s.machines[id]
	if m.cut {
		m.cut, m.copy = false, nil
		s.see(id)
	}
}

// seenBy returns the ledger as a machine knows it.
func (s *simulation) seenBy(id NodeID) State {
	if copied := s.machines[id].copy; copied != nil {
		return *copied
	}
	return *s.state
}

// see is the coordinator noticing a change of a machine.
func (s *simulation) see(id NodeID) {
	s.lastSeen[id] = s.now
	if m := s.machines[id]; m.up && !m.cut {
		s.heard[id] = true
	}
}

// takeOffice makes another node the coordinator. Observations do not travel: it counts everybody from now.
func (s *simulation) takeOffice(id NodeID) {
	s.coordinator, s.office = id, s.now
	for _, other := range s.ids() {
		s.lastSeen[other] = s.now
	}
}

func (s *simulation) ids() []NodeID { return slices.Sorted(maps.Keys(s.machines)) }

func (s *simulation) upIDs() []NodeID {
	return slices.DeleteFunc(s.ids(), func(id NodeID) bool { return !s.machines[id].up })
}

func (s *simulation) visible() []Candidate {
	var candidates []Candidate
	for _, id := range s.upIDs() {
		candidates = append(candidates, s.machines[id].Candidate)
	}
	return candidates
}

// found makes the record of a founding the first entry of the ledger.
func (s *simulation) found(f Founding) {
	s.joined++
	s.state = &State{Policy: f.Policy, Masters: f.Masters}
	for _, id := range f.Founders {
		s.enrol(id)
	}
	s.takeOffice(f.Masters[0])
}

func (s *simulation) enrol(id NodeID) {
	c := s.machines[id].Candidate
	s.state.Members = append(s.state.Members, Member{ID: id, Hostname: c.Hostname, StaticRole: c.StaticRole, Joined: s.joined})
}

// input is what the coordinator knows now.
func (s *simulation) input() Input {
	in := Input{State: s.state.clone(), Health: map[NodeID]Health{}, Now: s.now - s.office, Self: s.coordinator}
	for id, m := range s.machines {
		h := Health{Alive: m.up && !m.cut, Unheard: !s.heard[id]}
		if s.heard[id] {
			h.K8sReady, h.CAHash, h.Conflict, h.LANs = m.ready, m.caHash, m.Conflict, m.LANs
			h.Stopped = !m.ready
		}
		h.HoldsLease, h.Votes = m.lease, m.votes
		member := s.memberOf(id)
		switch {
		case member == "":
		case s.etcdServes():
			h.EtcdMember, h.EtcdServing, h.EtcdDead = member, s.serves(id), !s.serves(id)
			if h.EtcdDead {
				h.EtcdDeadFor = s.now - s.lastSeen[id]
			}
		case s.anyLists(member):
			h.EtcdMember = member
		}
		if member != "" && h.Alive && s.heard[id] {
			h.EtcdVoters = len(m.listed)
		}
		if h.Alive {
			h.AliveFor = s.now - s.lastSeen[id]
		} else {
			h.DeadFor = s.now - s.lastSeen[id]
		}
		in.Health[id] = h
	}
	return in
}

func (s *simulation) inService(id NodeID) bool { return s.machines[id].up && !s.machines[id].cut }

func (s *simulation) memberOf(id NodeID) string {
	for member, owner := range s.etcd {
		if owner == id {
			return member
		}
	}
	return ""
}

// serves tells whether a machine's etcd answers: it has one only while its Kubernetes runs.
func (s *simulation) serves(id NodeID) bool { return s.inService(id) && s.machines[id].ready }

// etcdServes tells whether a majority of etcd's members is there.
func (s *simulation) etcdServes() bool {
	serving := 0
	for _, owner := range s.etcd {
		if s.serves(owner) {
			serving++
		}
	}
	return serving > len(s.etcd)/2
}

// joinEtcd is a master that starts with its data or without.
func (s *simulation) joinEtcd(id NodeID) {
	if s.state.hasEtcd() && s.memberOf(id) == "" && (len(s.etcd) == 0 || s.etcdServes()) {
		s.members++
		s.etcd[fmt.Sprintf("%x", s.members)] = id
		s.machines[id].listed = nil
	}
	s.listEtcd()
}

// listEtcd is every server that looks who is in its etcd.
func (s *simulation) listEtcd() {
	if !s.etcdServes() {
		return
	}
	for _, owner := range s.etcd {
		if s.serves(owner) {
			s.machines[owner].listed = slices.Sorted(maps.Keys(s.etcd))
		}
	}
}

// anyLists tells whether a live server had a member in its etcd when that last answered.
func (s *simulation) anyLists(member string) bool {
	return slices.ContainsFunc(s.ids(), func(id NodeID) bool {
		return s.inService(id) && s.memberOf(id) != "" && slices.Contains(s.machines[id].listed, member)
	})
}

// execute is a master that does what the replacement says, as it was when the master looked. It reports whether it could.
func (s *simulation) execute(r Replacement) bool {
	if m := s.machines[r.Old]; r.Step != StepRemove || s.inService(r.Old) && m.ready {
		return false
	}
	if s.state.hasEtcd() && len(s.etcd) > 0 && !s.etcdServes() && !s.goOnAlone(r) {
		return false
	}
	if member := s.memberOf(r.Old); member != "" && member != r.Member {
		s.apply(NameMember{Old: r.Old, Member: member})
		return false
	}
	delete(s.etcd, r.Member)
	s.listEtcd()
	s.apply(AdvanceReplacement{Old: r.Old})
	return true
}

// goOnAlone is the survivor of two that makes etcd its own, if its own list says that they were two.
func (s *simulation) goOnAlone(r Replacement) bool {
	if r.Survivor == "" || !s.serves(r.Survivor) || s.memberOf(r.Survivor) == "" {
		return false
	}
	listed := s.machines[r.Survivor].listed
	return len(listed) == 2 && slices.Contains(listed, r.Member)
}

// clear is a master that forgets what the nodes were that have wiped.
func (s *simulation) clear() {
	for id, m := range s.machines {
		m.votes = s.inService(id) && s.state.Roles[id].IsMaster() // the voters follow the masters
	}
	for id, tenure := range s.state.Tenures {
		m := s.machines[id]
		if tenure.Cleared < tenure.N && s.inService(id) && (m.data.Epoch == 0 || m.data.Tenure == tenure.N) && !m.ready {
			if member := s.memberOf(id); member != "" {
				if !s.etcdServes() {
					continue
				}
				delete(s.etcd, member)
			}
			next := s.state.clone()
			next.Tenures[id] = Tenure{N: tenure.N, Cleared: tenure.N}
			s.state = &next
		}
	}
}

// ask leaves a request in the ledger.
func (s *simulation) ask(id NodeID, request Request) {
	next := s.state.clone()
	next.Requests[id] = request
	s.state = &next
}

func (s *simulation) apply(decisions ...Decision) {
	for _, d := range decisions {
		next := Apply(*s.state, d)
		s.state = &next
	}
}

// commitCA is the init master's compare-and-set: it holds for the epoch that it initialised, and once.
func (s *simulation) commitCA(id NodeID, epoch int, hash string) error {
	switch current := s.state.Epoch; {
	case current == nil || current.N != epoch || current.Init != id:
		return fmt.Errorf("%s may not commit a CA hash for epoch %d", id, epoch)
	case current.CAHash != "":
		return fmt.Errorf("epoch %d has a CA hash", epoch)
	}
	if m, _ := s.state.member(id); m.Removed {
		return fmt.Errorf("%s is no member", id)
	}
	next := s.state.clone()
	next.Epoch.CAHash = hash
	s.state = &next
	return nil
}

func (s *simulation) remove(id NodeID) {
	next := s.state.clone()
	for i := range next.Members {
		if next.Members[i].ID == id {
			next.Members[i].Removed = true
		}
	}
	s.state = &next
}

// roster lists the members in the order of their addresses.
func (s *simulation) roster() []Member {
	members := slices.Clone(s.state.Members)
	slices.SortStableFunc(members, func(a, b Member) int {
		byAddress := func(m Member) netip.Addr { return s.state.Addresses[m.ID] }
		if a, b := byAddress(a), byAddress(b); a.IsValid() != b.IsValid() {
			if a.IsValid() {
				return -1
			}
			return 1
		}
		return cmp.Or(byAddress(a).Compare(byAddress(b)), cmp.Compare(a.ID, b.ID))
	})
	return members
}
