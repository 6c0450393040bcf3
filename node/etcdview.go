package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/roles"
)

// cluster is what a master can do to the cluster that it is part of.
type cluster interface {
	Members(ctx context.Context) ([]k3s.EtcdMember, error)
	Remove(ctx context.Context, id uint64) error
	Forget(ctx context.Context, name string, still func(context.Context) error) error
	Close()
}

// etcdPause is the least time between two looks at etcd, however much changes.
const etcdPause = 4 * time.Second

// watchEtcd keeps what this master's etcd says of its members, for its facts.
func (m *member) watchEtcd(ctx context.Context) ([]string, error) {
	a := m.agent
	_, state, err := m.view()
	if err != nil {
		return nil, err
	}
	var seen []EtcdFacts
	if state.Roles[m.self()].IsMaster() && embeddedEtcd(state) {
		m.mu.Lock()
		early := time.Since(m.lookedAtEtcd) < etcdPause
		if !early {
			m.lookedAtEtcd = time.Now()
		}
		m.mu.Unlock()
		if early {
			return nil, nil
		}
		if seen, err = m.lookAtEtcd(ctx); err != nil {
			return nil, err
		}
	}
	a.mu.Lock()
	changed := !slices.Equal(a.etcd, seen)
	a.etcd = seen
	a.mu.Unlock()
	if changed {
		a.changed.Notify()
	}
	return nil, nil
}

// lookAtEtcd returns what this master's etcd says, or else what it said last, from
// disk: without a majority etcd does not even list its members once it was started
// again, and who they were is what the site has to know then (history S16).
func (m *member) lookAtEtcd(ctx context.Context) ([]EtcdFacts, error) {
	a := m.agent
	of, err := readNote(a.path(epochFile))
	if err != nil || of.Epoch == 0 {
		return nil, err
	}
	if a.distro.State().Running {
		members, err := a.cluster.Members(ctx)
		switch {
		case err == nil && len(members) > 0:
			seen := etcdFacts(members)
			return seen, keepEtcd(a.path(etcdFile), etcdNote{Of: of, Members: silent(seen)})
		case errors.Is(err, k3s.ErrNoEtcd):
			return nil, nil
		default:
			// K3s may just be starting: others see that this master says nothing.
			a.log.Debug("look at etcd", LogError, err)
		}
	}
	return readEtcd(a.path(etcdFile), of), nil
}

// etcdFile, in the state directory, says who was in this node's etcd when it last
// answered.
const etcdFile = "etcd.json"

type etcdNote struct {
	Of      epochNote   `json:"of"` // the data that the etcd had
	Members []EtcdFacts `json:"members"`
}

func keepEtcd(path string, note etcdNote) error {
	if slices.Equal(readEtcd(path, note.Of), note.Members) {
		return nil
	}
	text, err := json.Marshal(note)
	if err == nil {
		err = p2p.WriteFile(path, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note the members of etcd: %w", err)
	}
	return nil
}

// readEtcd returns the members that were noted for that data. What cannot be read
// says nothing.
func readEtcd(path string, of epochNote) []EtcdFacts {
	var note etcdNote
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &note) != nil || !note.Of.same(of) {
		return nil
	}
	return note.Members[:min(len(note.Members), maxEtcdFacts)]
}

// silent is a list of members of which none answers.
func silent(seen []EtcdFacts) []EtcdFacts {
	all := slices.Clone(seen)
	for i := range all {
		all[i].Reachable = false
	}
	return all
}

func etcdFacts(members []k3s.EtcdMember) []EtcdFacts {
	var all []EtcdFacts
	for _, member := range members {
		all = append(all, EtcdFacts{ID: member.Hex(), Host: member.Host, Learner: member.Learner, Reachable: member.Reachable})
	}
	slices.SortFunc(all, func(a, b EtcdFacts) int { return cmp.Compare(a.ID, b.ID) })
	return all[:min(len(all), maxEtcdFacts)]
}

// etcdWord is what one live master's etcd says.
type etcdWord struct {
	master roles.NodeID
	seen   []EtcdFacts
}

// addEtcd completes what this node sees of the members by what the masters' etcd
// says. The time for which etcd has called a member dead is this node's own.
func (m *member) addEtcd(state roles.State, all map[roles.NodeID]roles.Health, now time.Time) {
	if !embeddedEtcd(state) {
		return
	}
	hosts := map[roles.NodeID][]string{}
	var words []etcdWord
	for id, h := range all {
		node, err := peerOf(id)
		if err != nil {
			continue
		}
		f, heard := m.agent.factsOf(node)
		hosts[id] = m.etcdHosts(state, id, f)
		if heard && h.Alive && state.Roles[id].IsMaster() {
			words = append(words, etcdWord{id, f.Kubernetes.Etcd})
		}
	}
	etcdHealth(words, hosts, all)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.etcdDead == nil {
		m.etcdDead = map[roles.NodeID]time.Time{}
	}
	for id, h := range all {
		if !h.EtcdDead {
			delete(m.etcdDead, id)
			continue
		}
		if _, known := m.etcdDead[id]; !known {
			m.etcdDead[id] = now
		}
		h.EtcdDeadFor = now.Sub(m.etcdDead[id])
		all[id] = h
	}
}

// etcdHosts is under which hosts etcd knows a node.
func (m *member) etcdHosts(state roles.State, id roles.NodeID, f Facts) []string {
	address := state.Addresses[id]
	if !onMesh(m.agent.opts.Config) {
		address = f.VPN.Underlay
	}
	if !address.IsValid() {
		return nil
	}
	return []string{address.String()}
}

// etcdHealth writes into all what the live masters' etcd says of each. A member is
// dead when it answers none of the other live masters, and each of them has
// spoken (history S13), which is to say that its own etcd answers.
func etcdHealth(words []etcdWord, hosts map[roles.NodeID][]string, all map[roles.NodeID]roles.Health) {
	place := func(seen []EtcdFacts, id roles.NodeID) int {
		return slices.IndexFunc(seen, func(e EtcdFacts) bool {
			return slices.ContainsFunc(hosts[id], func(host string) bool { return sameHost(host, e.Host) })
		})
	}
	speaks := func(w etcdWord) bool {
		i := place(w.seen, w.master)
		return i >= 0 && w.seen[i].Reachable
	}
	listed := slices.DeleteFunc(slices.Clone(words), func(w etcdWord) bool { return !speaks(w) })
	if len(listed) == 0 {
		listed = words // what they said last
	}
	for id, h := range all {
		for _, w := range listed {
			if i := place(w.seen, id); i >= 0 && h.EtcdMember == "" {
				h.EtcdMember, h.EtcdLearner = w.seen[i].ID, w.seen[i].Learner
			}
		}
		others, dead := 0, 0
		for _, w := range words {
			if w.master == id {
				h.EtcdServing, h.EtcdVoters = speaks(w), voters(w.seen)
				continue
			}
			others++
			if i := place(w.seen, id); speaks(w) && (i < 0 || !w.seen[i].Reachable) {
				dead++
			}
		}
		h.EtcdDead = h.EtcdMember != "" && others > 0 && dead == others
		all[id] = h
	}
}

// voters counts the members that vote.
func voters(seen []EtcdFacts) int {
	n := 0
	for _, e := range seen {
		if !e.Learner {
			n++
		}
	}
	return n
}

func sameHost(a, b string) bool {
	x, err := netip.ParseAddr(a)
	y, err2 := netip.ParseAddr(b)
	return a == b || err == nil && err2 == nil && x == y
}
