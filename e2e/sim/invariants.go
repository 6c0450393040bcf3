package sim

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// violate notes that something happened that must never happen.
func (w *world) violate(format string, args ...any) {
	if len(w.violations) < 20 {
		w.violations = append(w.violations, fmt.Sprintf("%8.3fs ", w.now.Seconds())+fmt.Sprintf(format, args...))
	}
}

// foundingOnDisk is what a founding state says that promises are about; the format is p2p/ledger's.
type foundingOnDisk struct {
	Attempts []struct {
		Genesis ledger.Genesis  `json:"genesis"`
		Promise *ledger.Promise `json:"promise"`
	} `json:"attempts"`
	Founded *ledger.Certificate `json:"founded"`
	Aborted []struct {
		Site string `json:"site"`
	} `json:"aborted"`
}

// judgeFounding checks what must hold whenever a founder's disk changes: a promise stands until its site is founded or
// aborted, no site is both, and no node founds two (history S1).
func (w *world) judgeFounding(n *node, raw []byte) {
	var state foundingOnDisk
	if err := json.Unmarshal(raw, &state); err != nil {
		w.violate("%s: founding on disk: %v", n, err)
		return
	}
	for _, a := range state.Aborted {
		w.abortedSites[a.Site] = true
		if w.foundedBy[a.Site] != "" {
			w.violate("%s holds site %s aborted, which was founded", n, a.Site)
		}
	}
	bound := ""
	for _, a := range state.Attempts {
		if a.Promise == nil {
			continue
		}
		if bound != "" {
			w.violate("%s has two live promises", n)
		}
		bound = a.Genesis.Site
	}
	if c := state.Founded; c != nil {
		site, digest := c.Genesis.Site, c.Genesis.Digest().String()
		if w.abortedSites[site] {
			w.violate("%s founds site %s, which was aborted", n, site)
		}
		if have := w.foundedBy[site]; have != "" && have != digest {
			w.violate("site %s has two records", site)
		}
		w.foundedBy[site] = digest
		for _, f := range c.Genesis.Founders {
			if other := w.founderOf[f]; other != "" && other != site {
				w.violate("n%d founds two sites, %s and %s", w.byID[f]+1, other, site)
			}
			w.founderOf[f] = site
		}
		if bound != "" && bound != site {
			w.violate("%s is a founder and has a live promise to another site", n)
		}
		bound = site
	}
	if before := w.boundTo[n.index]; before != "" && before != bound && !w.abortedSites[before] {
		w.violate("%s dropped its promise to %s, which was not aborted", n, before)
	}
	w.boundTo[n.index] = bound
}

// judged is what was true of a site, to be compared with what is.
type judged struct {
	owner map[netip.Addr]roles.NodeID
	addr  map[roles.NodeID]netip.Addr
	name  map[roles.NodeID]string
	epoch roles.Epoch
	inits map[int]roles.NodeID
}

func newJudged() judged {
	return judged{
		owner: map[netip.Addr]roles.NodeID{}, addr: map[roles.NodeID]netip.Addr{}, name: map[roles.NodeID]string{},
		inits: map[int]roles.NodeID{},
	}
}

// judge checks the newest entry.
func (s *site) judge(what string) {
	w, state := s.w, s.entries[s.head()].state
	fail := func(format string, args ...any) {
		w.violate("site %s, after %q: %s", s.id, what, fmt.Sprintf(format, args...))
	}
	// A removed member may lose its record; its address stays its own for ever.
	for id, addr := range state.Addresses {
		if owner, given := s.judged.owner[addr]; given && owner != id {
			fail("address %s of n%d is given to n%d", addr, w.byID[string(owner)]+1, w.byID[string(id)]+1)
		}
		if had, has := s.judged.addr[id]; has && had != addr {
			fail("n%d had %s and has %s", w.byID[string(id)]+1, had, addr)
		}
		s.judged.owner[addr], s.judged.addr[id] = id, addr
	}
	masters, inits := 0, 0
	names := map[string]roles.NodeID{}
	for _, m := range state.Members {
		if m.Removed {
			continue
		}
		if name := state.Names[m.ID]; name != "" {
			if other, taken := names[name]; taken {
				fail("n%d and n%d are both called %s", w.byID[string(other)]+1, w.byID[string(m.ID)]+1, name)
			}
			if had := s.judged.name[m.ID]; had != "" && had != name {
				fail("n%d was called %s and is called %s", w.byID[string(m.ID)]+1, had, name)
			}
			names[name], s.judged.name[m.ID] = m.ID, name
		}
		role := state.Roles[m.ID]
		if role.IsMaster() {
			masters++
		}
		if role == roles.MasterInit || role == roles.Master {
			inits++
		}
	}
	if wanted := state.Policy.Masters(); masters > wanted {
		fail("%d masters, %d were asked for", masters, wanted)
	}
	if inits > 1 {
		fail("%d masters initialise the cluster", inits)
	}
	s.judgeEpoch(state.Epoch, fail)
}

func (s *site) judgeEpoch(epoch *roles.Epoch, fail func(string, ...any)) {
	if epoch == nil {
		if s.judged.epoch != (roles.Epoch{}) {
			fail("the cluster epoch is gone")
		}
		return
	}
	old, now := s.judged.epoch, *epoch
	switch {
	case now.N < old.N:
		fail("epoch %d follows epoch %d", now.N, old.N)
	case now.N == old.N && old.Init != now.Init:
		fail("the init master of epoch %d changes", now.N)
	case now.N == old.N && old.CAHash != "" && old.CAHash != now.CAHash:
		fail("the CA of epoch %d changes", now.N)
	case now.N > old.N && old.CAHash != "":
		fail("epoch %d has a CA and is superseded", old.N)
	}
	s.judged.epoch = now
}

// judgeInit checks that a cluster is initialised once in its epoch, and by whom it should be.
func (s *site) judgeInit(n *node, epoch roles.Epoch) {
	id := roles.NodeID(n.id)
	if epoch.Init != id {
		s.w.violate("%s joins epoch %d before its CA is committed", n, epoch.N)
	}
	if other, done := s.judged.inits[epoch.N]; done && other != id {
		s.w.violate("epoch %d is initialised by n%d and by %s", epoch.N, s.w.byID[string(other)]+1, n)
	}
	s.judged.inits[epoch.N] = id
}

// judgeDecision checks a decision against what is true, whatever its proposer believes: it has watched an init master that
// it supersedes for long enough in its own office (history S10).
func (s *site) judgeDecision(c *node, in roles.Input, d roles.Decision) {
	if e, starts := d.(roles.StartEpoch); starts && e.Supersedes > 0 {
		if in.Now < roles.FormationGrace {
			s.w.violate("%s supersedes epoch %d after %v in office", c, e.Supersedes, in.Now)
		}
	}
}

// judgeEnd checks a site in peace: everybody has a place, or the planner says why not; everybody has the same copy; and if
// Kubernetes is wanted there is one cluster.
func (w *world) judgeEnd() {
	for _, s := range w.siteOrder {
		if s.head() == 0 && s.coordinator < 0 {
			continue // decided, and too few of its masters came to bootstrap it
		}
		state := s.entries[s.head()].state
		if s.coordinator < 0 {
			w.violate("site %s has no coordinator in the end", s.id)
			continue
		}
		s.judgeVoters(state)
		c := w.nodes[s.coordinator]
		in := c.input(*state)
		in.Now = c.clock() - s.office
		plan := roles.Next(in)
		for _, m := range state.Members {
			i := w.byID[string(m.ID)]
			excused := false
			for _, waiting := range plan.Waiting {
				excused = excused || waiting.ID == m.ID
			}
			if state.Roles[m.ID] == roles.None && !excused {
				w.violate("n%d has no role in the end, and nobody says why", i+1)
			}
		}
		for _, n := range w.nodes {
			if !n.up || n.disk.site != s {
				continue
			}
			if n.disk.copy != s.head() {
				w.violate("the copy of %s is at %d of %d in the end (server n%d)", n, n.disk.copy, s.head(), n.server+1)
			}
			if state.Policy.Kubernetes && state.Epoch != nil && state.Epoch.CAHash != "" && n.disk.caHash != "" && n.ready &&
				n.disk.caHash != state.Epoch.CAHash {
				w.violate("%s runs another cluster in the end", n)
			}
		}
		if state.Policy.Kubernetes && (state.Epoch == nil || state.Epoch.CAHash == "") {
			w.violate("site %s has no cluster in the end", s.id)
		}
	}
}

// judgeVoters checks that in the end the masters are the voters, and no replacement is left half done.
func (s *site) judgeVoters(state *roles.State) {
	if r := state.Replacement; r != nil {
		s.w.violate("site %s: the replacement of n%d is at %q in the end", s.id, s.w.byID[string(r.Old)]+1, r.Step)
	}
	masters := state.Voters()
	for _, v := range s.servers {
		if i := slices.Index(masters, roles.NodeID(v.node.id)); i >= 0 && v.votes && s.serves(v) {
			masters = slices.Delete(masters, i, i+1)
			continue
		}
		s.w.violate("site %s: %s is a server in the end (votes %t, seat %d, has %d)", s.id, v.node, v.votes, v.seat, v.node.disk.seat)
	}
	for _, id := range masters {
		s.w.violate("site %s: master n%d does not vote in the end", s.id, s.w.byID[string(id)]+1)
	}
}
