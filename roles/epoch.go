package roles

import (
	"fmt"
	"slices"
	"time"
)

// FormationGrace is how long the init master of an epoch without CA hash must be seen dead before another master takes over.
// A box that lost power is back within it, and keeps its part: superseding an epoch costs the old init master a wipe.
const FormationGrace = 60 * time.Second

// initMaster returns who initialises the cluster, "" if nobody can. Once there is an epoch that is its init node, for good.
// Before that it is who holds the role already, or else the first founding master by ID, so that one which is down for a
// moment changes nothing; only one that is unusable or seen dead for FormationGrace is passed over.
func (p *planner) initMaster() NodeID {
	if p.state.Epoch != nil {
		return p.state.Epoch.Init
	}
	founding := slices.DeleteFunc(slices.Clone(p.masters), func(id NodeID) bool { return !slices.Contains(p.state.Masters, id) })
	if holder := p.state.initHolder(); holder != "" {
		if !p.state.Policy.Kubernetes {
			return holder
		}
		founding = slices.Insert(founding, 0, holder)
	}
	for _, id := range founding {
		if p.usable(id) && p.seenDead(id) < FormationGrace {
			return id
		}
	}
	return ""
}

// initHolder returns the member with the role of the master that initialises, "" if there is none.
func (s State) initHolder() NodeID {
	for _, m := range s.live() {
		if role := s.Roles[m.ID]; role == MasterInit || role == Master {
			return m.ID
		}
	}
	return ""
}

// usable reports whether a master can be planned with at all.
func (p *planner) usable(id NodeID) bool {
	if p.Health[id].Conflict {
		return false
	}
	_, addressed := p.state.Addresses[id]
	_, clash := overlap(p.state.Policy.Range, p.Health[id].LANs)
	return addressed || !clash
}

// planEpoch starts the first epoch, or supersedes one whose init master is gone and has not committed a CA hash. The ledger
// accepts a CA hash only for the current epoch, so an init master that was merely cut off finds its own refused, and wipes.
func (p *planner) planEpoch() {
	if !p.state.Policy.Kubernetes {
		return
	}
	if p.state.Epoch == nil {
		init := p.initMaster()
		if _, addressed := p.state.Addresses[init]; addressed && p.usable(init) {
			p.decide(StartEpoch{N: 1, Init: init})
		} else {
			p.wait("", "no master can initialise the cluster now, of %s", list(p.state.shownAll(p.masters)))
		}
		return
	}
	if epoch := *p.state.Epoch; epoch.CAHash == "" {
		p.superviseInit(epoch)
	}
}

func (p *planner) superviseInit(epoch Epoch) {
	m, known := p.state.member(epoch.Init)
	gone := !known || m.Removed || p.state.Roles[epoch.Init] == Worker // one whose place was given on
	dead := p.seenDead(epoch.Init)
	if !gone && dead == 0 {
		return
	}
	if !p.state.Policy.HA {
		p.wait(epoch.Init, "the only master, which initialises the cluster, is gone: nothing takes its place by itself; power it on, or found the site anew")
		return
	}
	if !gone && dead < FormationGrace {
		p.wait(epoch.Init, "it initialises the cluster and has been dead for %s: another master takes over after %s", seconds(dead), FormationGrace)
		return
	}
	for _, id := range p.masters {
		if _, addressed := p.state.Addresses[id]; addressed && id != epoch.Init && p.usable(id) && p.alive(id) {
			p.decide(StartEpoch{N: epoch.N + 1, Init: id, Supersedes: epoch.N})
			return
		}
	}
	p.wait(epoch.Init, "it initialises the cluster and is gone, and no other master is alive to take over")
}

// planControlPlane marks the control plane as formed once all masters are Ready at the same time, and says which are
// missing. Until then the loss of a master costs nobody's data, afterwards a dead master is somebody's: hence the mark is
// committed, and never taken back.
func (p *planner) planControlPlane() {
	if !p.state.Policy.Kubernetes || p.state.caHash() == "" {
		return
	}
	formed := p.state.Epoch.FormedMasters
	wanted, ready := p.state.Policy.Masters(), 0
	absent := make(map[NodeID]string)
	for _, id := range p.masters {
		if absent[id] = p.whyNotReady(id); absent[id] == "" {
			ready++
		}
	}
	if !formed && ready >= wanted {
		p.decide(MarkFormed{N: p.state.Epoch.N})
		return
	}
	standing := "has formed"
	if !formed {
		standing = "is forming"
	}
	for _, id := range p.masters {
		if absent[id] != "" {
			p.wait(id, "%s; the control plane %s, %d of %d masters are Ready", absent[id], standing, ready, wanted)
		}
	}
	if missing := wanted - len(p.masters); missing > 0 {
		p.wait("", "%s must come: the control plane %s, %d of %d masters are Ready", count(missing, "more master"), standing, ready, wanted)
	}
}

// whyNotReady returns "" for a master that runs the site's cluster and is Ready.
func (p *planner) whyNotReady(id NodeID) string {
	h, watched := p.Health[id]
	switch {
	case h.Conflict:
		return "two live machines hold its key"
	case !p.alive(id) && watched:
		return fmt.Sprintf("it has been dead for %s", seconds(p.seenDead(id)))
	case !p.alive(id):
		return "nothing was heard of it yet"
	case p.otherCluster(id):
		return "it runs a Kubernetes cluster with another CA than the site's: reset the node"
	case !h.K8sReady || !p.state.Roles[id].IsMaster() || p.state.Tenures[id].Cleared < p.state.Tenures[id].N:
		return "it is not Ready yet"
	default:
		return ""
	}
}

// otherCluster reports whether a member runs a cluster that is not the site's.
func (p *planner) otherCluster(id NodeID) bool {
	hash := p.Health[id].CAHash
	return hash != "" && p.state.caHash() != "" && hash != p.state.caHash()
}
