package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/node/vip"
	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

const (
	// vipAnnouncements at first, one with each renewal, in case the first gets
	// lost; then one each vipAnnounceEvery, for a switch that forgot.
	vipAnnouncements = 3
	vipAnnounceEvery = time.Minute
	// vipEarly is by how much a renewal may come before it is due, so that it is
	// not put off by a whole period.
	vipEarly = 500 * time.Millisecond
)

// virtualAddress is what this node knows of the site's virtual address.
type virtualAddress struct {
	// address is on link until the lease of grant fence ends, which runs from
	// asked; the zero address when this node has none.
	address netip.Addr
	link    string
	fence   uint64
	asked   time.Time

	announced     int
	lastAnnounced time.Time

	// revoked is when this node first saw grant revokedFence taken away.
	revoked      time.Time
	revokedFence uint64
	// silent is since when the coordinator has seen an API server not answer.
	silent map[roles.NodeID]time.Time
}

// keepVIP has the virtual address on this node exactly while the site says that
// this node holds it, and, on the coordinator, says who does.
func (m *member) keepVIP(ctx context.Context) ([]string, error) {
	view, state, err := m.view()
	if err != nil {
		return nil, err
	}
	record, granted, err := ledger.Read[ledger.VIP](view, ledger.KeyVIP)
	if err != nil || !granted && !state.Policy.VIP.IsValid() {
		return nil, err
	}
	if v := record.Value; v.Status == ledger.VIPRevoked && m.vip.revokedFence != v.Fence {
		m.vip.revokedFence, m.vip.revoked = v.Fence, time.Now()
	}
	waiting, err := m.holdVIP(ctx, state.Policy.VIP)
	sentences, failed := m.grantVIP(ctx, state, record, granted)
	return append(waiting, sentences...), errors.Join(err, failed)
}

// holdVIP renews the address on this node, or takes it off.
func (m *member) holdVIP(ctx context.Context, address netip.Addr) ([]string, error) {
	v := &m.vip
	if v.address.IsValid() && v.address != address {
		if err := m.dropVIP("the site's virtual address is another now"); err != nil {
			return nil, err
		}
	}
	record, mine := m.holdsVIP()
	if !mine || !address.IsValid() {
		if err := m.dropVIP("it is not this node's any more"); err != nil {
			return nil, err
		}
		return nil, m.releaseVIP(ctx, record)
	}
	if v.fence != record.Value.Fence || time.Since(v.asked) >= roles.VIPRenew-vipEarly {
		// The lease runs from before the question: what the ledger then says was
		// true at that moment.
		asked := time.Now()
		if err := m.ledger.Sync(ctx); err != nil {
			if roles.VIPLifetime(0, time.Since(v.asked)) == 0 {
				err = errors.Join(err, m.dropVIP("the masters cannot confirm that it is still this node's"))
			}
			return []string{fmt.Sprintf("the virtual address %s is this node's, and only a majority of the masters can confirm that it still is (%s)", address, err)}, nil
		}
		again, still := m.holdsVIP()
		if !still || again.Value.Fence != record.Value.Fence {
			m.agent.changed.Notify()
			return nil, m.dropVIP("it is not this node's any more")
		}
		v.fence, v.asked = record.Value.Fence, asked
		if err := m.putVIP(address); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// holdsVIP tells whether the ledger's copy says that this node holds the address.
func (m *member) holdsVIP() (ledger.Record[ledger.VIP], bool) {
	record, granted, err := ledger.Read[ledger.VIP](m.ledger.View(), ledger.KeyVIP)
	v := record.Value
	return record, err == nil && granted && v.Status == ledger.VIPHeld && v.Holder == m.agent.identity.ID().String()
}

// putVIP puts the address on its link for what is left of the lease.
func (m *member) putVIP(address netip.Addr) error {
	v := &m.vip
	link, err := vip.Link(m.agent.opts.Config.KubeVIP.Interface, address)
	if err != nil {
		return errors.Join(err, m.dropVIP("there is no link for it"))
	}
	if v.address.IsValid() && v.link != link {
		if err := m.dropVIP("its network is on another link now"); err != nil {
			return err
		}
	}
	seconds := roles.VIPLifetime(0, time.Since(v.asked))
	if seconds == 0 {
		return m.dropVIP("its lease ran out")
	}
	if err := vip.Hold(link, address, seconds); err != nil {
		return err
	}
	// A process that was stopped between the two lines above has just put on what
	// may be somebody else's by now. It tells nobody and takes it off again.
	fresh := !v.address.IsValid()
	v.address, v.link = address, link
	if roles.VIPLifetime(0, time.Since(v.asked)) == 0 {
		return m.dropVIP("its lease ran out")
	}
	if fresh {
		v.announced = 0
		m.agent.log.Info("this node holds the virtual address", LogAddress, address, "interface", link)
		m.agent.events.add("vip", "this node holds the virtual address", fmt.Sprintf("%s on %s, grant %d", address, link, v.fence))
	}
	if v.announced < vipAnnouncements || time.Since(v.lastAnnounced) >= vipAnnounceEvery {
		v.announced, v.lastAnnounced = v.announced+1, time.Now()
		return vip.Announce(link, address)
	}
	return nil
}

// dropVIP takes the address off. What an earlier agent put on is the kernel's to
// drop.
func (m *member) dropVIP(why string) error {
	v := &m.vip
	if !v.address.IsValid() {
		return nil
	}
	if err := vip.Drop(v.address); err != nil {
		return err
	}
	m.agent.log.Info("this node dropped the virtual address", LogAddress, v.address, LogReason, why)
	m.agent.events.add("vip", "this node dropped the virtual address", v.address.String()+": "+why)
	v.address, v.link, v.asked = netip.Addr{}, "", time.Time{}
	return nil
}

// releaseVIP says that the address, taken away from this node, is off its links,
// so that the next one need not wait for the lease to end.
func (m *member) releaseVIP(ctx context.Context, record ledger.Record[ledger.VIP]) error {
	if record.Value.Status != ledger.VIPRevoked || record.Value.Holder != m.agent.identity.ID().String() {
		return nil
	}
	// What an agent before this one put on is not in m.vip.
	if address := m.agent.virtualAddress(); address.IsValid() {
		if err := vip.Drop(address); err != nil {
			return err
		}
	}
	record.Value.Status = ledger.VIPReleased
	return m.proposeVIP(ctx, record)
}

// grantVIP decides who holds the address while this node is the coordinator.
func (m *member) grantVIP(ctx context.Context, state roles.State, record ledger.Record[ledger.VIP], granted bool) ([]string, error) {
	v := &m.vip
	if !m.ledger.IsCoordinator() {
		v.silent = nil
		return nil, nil
	}
	m.mu.Lock()
	office := m.inOffice
	m.mu.Unlock()
	if office.IsZero() {
		return nil, nil // the coordinator reconciler is about to notice
	}
	in := roles.VIPInput{
		Input: roles.Input{State: state, Health: m.health(state), Now: time.Since(office), Self: m.self()},
		Able:  m.ableToHold(state),
	}
	if granted {
		in.VIP = &roles.VIP{Holder: roles.NodeID(record.Value.Holder), Fence: record.Value.Fence, Status: roles.VIPStatus(record.Value.Status)}
		if v.revokedFence == record.Value.Fence && !v.revoked.IsZero() {
			in.Revoked = time.Since(v.revoked)
		}
	}
	next, waiting := roles.NextVIP(in)
	var sentences []string
	for _, w := range waiting {
		sentences = append(sentences, w.Reason)
	}
	if next == nil {
		return sentences, nil
	}
	record.Value = ledger.VIP{Holder: string(next.Holder), Fence: next.Fence, Status: string(next.Status)}
	if err := m.proposeVIP(ctx, record); err != nil {
		return sentences, err
	}
	m.agent.events.add("vip", fmt.Sprintf("virtual address %s: %s", state.Policy.VIP, next.Status), fmt.Sprintf("%s, grant %d", next.Holder, next.Fence))
	return sentences, nil
}

// ableToHold is what the masters say of themselves and the address.
func (m *member) ableToHold(state roles.State) map[roles.NodeID]roles.VIPAble {
	v := &m.vip
	if v.silent == nil {
		v.silent = map[roles.NodeID]time.Time{}
	}
	all := map[roles.NodeID]roles.VIPAble{}
	for id, role := range state.Roles {
		node, err := peerOf(id)
		if err != nil || !role.IsMaster() {
			continue
		}
		facts, heard := m.agent.factsOf(node)
		if !heard {
			continue
		}
		able := roles.VIPAble{Carries: facts.VIP, Serving: facts.Kubernetes.Serving}
		switch since, silent := v.silent[id]; {
		case able.Serving:
			delete(v.silent, id)
		case silent:
			able.Silent = time.Since(since)
		default:
			v.silent[id] = time.Now()
		}
		all[id] = able
	}
	return all
}

// proposeVIP writes the record if nobody else has since it was read.
func (m *member) proposeVIP(ctx context.Context, record ledger.Record[ledger.VIP]) error {
	value, err := record.Encode()
	if err != nil {
		return fmt.Errorf("virtual address: %w", err)
	}
	_, err = m.ledger.Propose(ctx, ledger.Txn{}.If(ledger.KeyVIP, record.Index).Set(ledger.KeyVIP, value))
	if errors.Is(err, ledger.ErrConflict) {
		return nil // the change that was faster wakes us
	}
	if err != nil {
		return fmt.Errorf("virtual address: %w", err)
	}
	return nil
}

// virtualAddress is the one that the masters hold in turn, by the site's policy.
func (a *Agent) virtualAddress() netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ledger == nil {
		return netip.Addr{}
	}
	// It is asked for each address of each packet of discovery.
	view := a.ledger.View()
	if index := view.Index(); index != a.vip.index {
		a.vip.index, a.vip.address = index, netip.Addr{}
		if genesis, founded := ledger.ReadGenesis(view); founded {
			if policy, err := roles.ParsePolicy(policyRecord(view, genesis)); err == nil {
				a.vip.address = policy.VIP
			}
		}
	}
	return a.vip.address
}

// virtual tells the addresses that are on this node's links for the time being,
// put there by Muster or by kube-vip: nobody may take one for this node's own.
func (a *Agent) virtual(address netip.Addr) bool {
	return address.IsValid() && (address == a.opts.Config.KubeVIP.EIP || address == a.virtualAddress())
}

// carriesVIP tells whether this node has a link for the virtual address.
func (a *Agent) carriesVIP() bool {
	address := a.virtualAddress()
	if !address.IsValid() {
		return false
	}
	_, err := vip.Link(a.opts.Config.KubeVIP.Interface, address)
	return err == nil
}

// sharedAddress is the API server's address beside the masters' own: the one that
// they hold in turn, or kube-vip's; the zero address without either.
func sharedAddress(state roles.State, c *config.Config) netip.Addr {
	if state.Policy.VIP.IsValid() || !c.KubeVIP.Enable {
		return state.Policy.VIP
	}
	return c.KubeVIP.EIP
}
