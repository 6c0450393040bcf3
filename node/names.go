package node

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/vpn"
)

// dnsPort is DNS's own.
const dnsPort = 53

// names answers for the mesh on this node's mesh address and, with p2p.dns,
// makes it this machine's own resolver.
func (m *member) names(ctx context.Context) ([]string, error) {
	a := m.agent
	view, state, err := m.view()
	if err != nil {
		return nil, err
	}
	address, decided := state.Addresses[m.self()]
	if !decided || !m.connected(address) || !a.opts.Config.P2P.VPN.Create {
		return nil, nil
	}
	hosts := map[string]netip.Addr{}
	for _, member := range state.Members {
		if addr, ok := state.Addresses[member.ID]; ok && state.Names[member.ID] != "" && !member.Removed {
			hosts[state.Names[member.ID]] = addr
		}
	}
	zone := vpn.HostZone(a.opts.Config.P2P.NetworkID, hosts)
	records, err := dnsRecords(view)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		zone[r.Name] = r.Addresses
	}
	if a.dns == nil {
		server, err := vpn.ServeDNS([]netip.AddrPort{netip.AddrPortFrom(address, dnsPort)}, a.log)
		if err != nil {
			return nil, err
		}
		a.dns = server
	}
	a.dns.SetZone(zone)
	if !a.opts.Config.P2P.DNS {
		return nil, nil
	}
	search := a.opts.Config.P2P.NetworkID + "." + vpn.Suffix
	upstreams, err := vpn.Resolver{}.Use(ctx, address, search)
	if err != nil {
		return nil, err
	}
	a.dns.SetUpstreams(upstreams)
	return nil, nil
}

// dnsRecords returns the records that operators set.
func dnsRecords(view ledger.View) ([]DNSRow, error) {
	all := []DNSRow{}
	for _, e := range view.List(ledger.PrefixDNS) {
		record, err := ledger.Decode[ledger.DNS](e)
		if err != nil {
			return nil, err
		}
		row := DNSRow{Name: strings.TrimPrefix(e.Key, ledger.PrefixDNS)}
		for _, text := range append(record.Value.A, record.Value.AAAA...) {
			address, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", e.Key, err)
			}
			row.Addresses = append(row.Addresses, address)
		}
		all = append(all, row)
	}
	return all, nil
}
