package roles

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// NodeID is a node's libp2p peer ID, opaque here.
type NodeID string

// Role is what a node is in the Kubernetes cluster. The names are Kairos's, which cloud-configs already use.
type Role string

const (
	None       Role = ""
	MasterInit Role = "master/clusterinit" // initialises the cluster of an HA site
	MasterHA   Role = "master/ha"          // another master of an HA site
	Master     Role = "master"             // the one master of a site without HA
	Worker     Role = "worker"
)

// IsMaster reports whether r is one of the master roles.
func (r Role) IsMaster() bool { return r == MasterInit || r == MasterHA || r == Master }

// Member is a node that the ledger has enrolled.
type Member struct {
	ID       NodeID
	Hostname string
	// StaticRole is the role that the node's own configuration asks for: None, Master or Worker.
	StaticRole Role
	// Joined is the ledger index of the enrolment. Founders share one.
	Joined uint64
	// Removed members stay listed, so that their addresses stay theirs. Nothing is decided about them.
	Removed bool
}

// Health is what the observer knows about one member: what it saw itself, and the member's newest facts.
type Health struct {
	// Alive is the verdict of gossip. AliveFor or DeadFor says for how long the observer has seen it so, on its own monotonic
	// clock. Whoever has taken office counts anew from then, also for a member that it has not heard yet.
	Alive             bool
	AliveFor, DeadFor time.Duration

	// K8sReady is the member's own verdict that Kubernetes is Ready in its role, and CAHash the cluster that it runs.
	K8sReady bool
	CAHash   string

	// EtcdMember is the member's ID in etcd, "" when no live master's etcd lists it (or listed it, when none answers any
	// more). EtcdLearner: it does not vote there yet. EtcdVoters is how many voters its own etcd last listed, 0 for a member
	// that never had any. EtcdServing: its own etcd answers and has a leader. EtcdDead: that of every other live master
	// cannot reach it, which the observer has seen for EtcdDeadFor.
	EtcdMember            string
	EtcdLearner           bool
	EtcdVoters            int
	EtcdServing, EtcdDead bool
	EtcdDeadFor           time.Duration
	// HoldsLease says that the member was allowed to restart, and so will be back (history S15).
	HoldsLease bool
	// Votes says that the member is a voter of the ledger. Only the coordinator knows.
	Votes bool
	// Stopped says that Kubernetes does not run on the member, in its own words.
	Stopped bool
	// Volumes says that pods keep data on the member's disk.
	Volumes bool

	// Unheard says that the member's own facts have not come yet: what it says of itself, its LANs too, is not known. A
	// member without an entry is unheard as well.
	Unheard bool

	// Conflict says that two live machines hold the member's key. Nobody plans with either.
	Conflict bool

	// LANs are the networks of the member's own interfaces, the mesh's excluded.
	LANs []netip.Prefix
}

// Epoch is one attempt at a Kubernetes cluster, and its CA once it has come to be.
type Epoch struct {
	N    int // counts from 1
	Init NodeID
	// CAHash is committed by Init itself, by compare-and-set against this epoch. Empty: nobody but Init may start.
	CAHash string
	// FormedMasters is set once all masters were Ready together, and never cleared.
	FormedMasters bool
}

// State is what the ledger holds, as far as this package reads it.
type State struct {
	// Policy is the site's policy. Its Range is the one that genesis chose.
	Policy Policy
	// Masters are the founding masters, who are the voters.
	Masters   []NodeID
	Members   []Member
	Roles     map[NodeID]Role
	Addresses map[NodeID]netip.Addr
	Names     map[NodeID]string
	// NextAddress numbers the next address to give, see AddrForCounter. It only grows; 0 and 1 both mean that none was given.
	NextAddress uint64
	// Epoch is nil until the first one starts.
	Epoch *Epoch
	// Tenures has an entry for everybody that was made something else once.
	Tenures map[NodeID]Tenure
	// Replacement is the change of members under way, nil for none.
	Replacement *Replacement
	// Requests are what operators ask, and nodes of themselves.
	Requests map[NodeID]Request
}

// Input is all that [Next] looks at.
type Input struct {
	State State
	// Health has an entry for every member that is watched, Self included.
	Health map[NodeID]Health
	// Now is how long Self has been in office as coordinator (or, to explain, how long it has watched the others), on its own
	// monotonic clock. Nobody counts as dead for longer than that: an observation inherited from somebody else never
	// condemns a node (history S10).
	Now time.Duration
	// Self is the observer. It counts as alive.
	Self NodeID
}

// seenDead returns for how long the observer has seen a member dead; 0 when it is alive or was never observed.
func (in Input) seenDead(id NodeID) time.Duration {
	h, observed := in.Health[id]
	if id == in.Self || !observed || h.Alive {
		return 0
	}
	return min(h.DeadFor, in.Now)
}

func (in Input) alive(id NodeID) bool { return id == in.Self || in.Health[id].Alive }

// clone returns a copy that Apply may change.
func (s State) clone() State {
	s.Masters = slices.Clone(s.Masters)
	s.Members = slices.Clone(s.Members)
	s.Roles = cloneMap(s.Roles)
	s.Addresses = cloneMap(s.Addresses)
	s.Names = cloneMap(s.Names)
	s.Tenures = cloneMap(s.Tenures)
	s.Requests = cloneMap(s.Requests)
	if s.Replacement != nil {
		replacement := *s.Replacement
		s.Replacement = &replacement
	}
	if s.Epoch != nil {
		epoch := *s.Epoch
		s.Epoch = &epoch
	}
	return s
}

func cloneMap[V any](m map[NodeID]V) map[NodeID]V {
	if m == nil {
		return make(map[NodeID]V)
	}
	return maps.Clone(m)
}

func (s State) member(id NodeID) (Member, bool) {
	i := slices.IndexFunc(s.Members, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return Member{}, false
	}
	return s.Members[i], true
}

// live returns the members that were not removed, in the order of their joining.
func (s State) live() []Member {
	members := slices.DeleteFunc(slices.Clone(s.Members), func(m Member) bool { return m.Removed })
	slices.SortFunc(members, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Joined, b.Joined), cmp.Compare(a.ID, b.ID))
	})
	return members
}

// Voters returns who votes on decisions: the masters, and the founding ones that have no role yet.
func (s State) Voters() []NodeID {
	var all []NodeID
	for _, m := range s.live() {
		if s.Roles[m.ID].IsMaster() {
			all = append(all, m.ID)
		}
	}
	for _, id := range s.Masters {
		if m, _ := s.member(id); s.Roles[id] == None && !m.Removed && len(all) < s.Policy.Masters() {
			all = append(all, id)
		}
	}
	return all
}

// caHash returns the CA hash of the current epoch, "" when there is no epoch or none was committed.
func (s State) caHash() string {
	if s.Epoch == nil {
		return ""
	}
	return s.Epoch.CAHash
}
