package node

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/roles"
)

// cluster is what a master can do to the cluster that it is part of.
type cluster interface {
	Members(ctx context.Context) ([]k3s.EtcdMember, error)
	Remove(ctx context.Context, id uint64) error
	Forget(ctx context.Context, name string) error
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
	if state.Roles[m.self()].IsMaster() && usesEtcd(state) && a.distro.State().Running {
		m.mu.Lock()
		early := time.Since(m.lookedAtEtcd) < etcdPause
		if !early {
			m.lookedAtEtcd = time.Now()
		}
		m.mu.Unlock()
		if early {
			return nil, nil
		}
		members, err := a.cluster.Members(ctx)
		if err != nil && !errors.Is(err, k3s.ErrNoEtcd) {
			// K3s may just be starting: others see that this master says nothing.
			a.log.Debug("look at etcd", LogError, err)
		}
		seen = etcdFacts(members)
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

// usesEtcd tells whether the masters are members of one etcd.
func usesEtcd(state roles.State) bool {
	return state.Policy.Kubernetes && state.Policy.HA && state.Policy.ExternalDB == ""
}

func etcdFacts(members []k3s.EtcdMember) []EtcdFacts {
	var all []EtcdFacts
	for _, member := range members {
		all = append(all, EtcdFacts{ID: member.Hex(), Host: member.Host, Reachable: member.Reachable})
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
	if !usesEtcd(state) {
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
// spoken (history S13).
func etcdHealth(words []etcdWord, hosts map[roles.NodeID][]string, all map[roles.NodeID]roles.Health) {
	for id, h := range all {
		of := func(e EtcdFacts) bool {
			return slices.ContainsFunc(hosts[id], func(host string) bool { return sameHost(host, e.Host) })
		}
		others, dead := 0, 0
		for _, w := range words {
			i := slices.IndexFunc(w.seen, of)
			if i >= 0 && h.EtcdMember == "" && len(w.seen) > 0 {
				h.EtcdMember = w.seen[i].ID
			}
			if w.master == id {
				h.EtcdServing = i >= 0 && w.seen[i].Reachable
				continue
			}
			others++
			if len(w.seen) > 0 && (i < 0 || !w.seen[i].Reachable) {
				dead++
			}
		}
		h.EtcdDead = h.EtcdMember != "" && others > 0 && dead == others
		all[id] = h
	}
}

func sameHost(a, b string) bool {
	x, err := netip.ParseAddr(a)
	y, err2 := netip.ParseAddr(b)
	return a == b || err == nil && err2 == nil && x == y
}
