package lab

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// writeNAT makes the namespace of pid a router of that kind, in one transaction.
func writeNAT(pid int, kind NAT) error {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nat"}
	conn.AddTable(table) // so that deleting it never fails
	conn.DelTable(table)
	conn.AddTable(table)
	addNATRules(conn, table, kind)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables: %w (this kernel needs nftables with NAT and masquerade)", err)
	}
	return nil
}

func addNATRules(conn *nftables.Conn, table *nftables.Table, kind NAT) {
	accept := nftables.ChainPolicyAccept
	chain := func(name string, of nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: of, Hooknum: hook, Priority: priority, Policy: &accept})
	}
	rule := func(chain *nftables.Chain, exprs ...[]expr.Any) {
		r := &nftables.Rule{Table: table, Chain: chain}
		for _, e := range exprs {
			r.Exprs = append(r.Exprs, e...)
		}
		conn.AddRule(r)
	}
	from := func(link string) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ifname(link)}}
	}
	to := func(link string) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ifname(link)}}
	}
	unasked := []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, expr.CtStateBitNEW), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
	drop := []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}

	// What comes unasked is dropped before the kernel has noted it. Otherwise the note would occupy the very pair of ports by
	// which the node behind would answer, and masquerade would choose another: no two such routers could ever be passed.
	input := chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	rule(input, from(routerWAN), unasked, drop)
	if kind == NATFull {
		rule(chain("in", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest), from(routerWAN), []expr.Any{
			&expr.Immediate{Register: 1, Data: natNode.AsSlice()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
		})
	} else {
		forward := chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
		rule(forward, from(routerWAN), unasked, drop)
	}
	out := chain("out", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	rule(out, to(routerWAN), []expr.Any{&expr.Masq{Random: kind == NATSymmetric, FullyRandom: kind == NATSymmetric}})
}

// flushMappings forgets all connections that go through a router.
func flushMappings(router process) error {
	return InNetNS(netNSPath(router), func() error {
		h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("forget mappings: %w", err)
		}
		defer h.Close()
		if err := h.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			return fmt.Errorf("forget mappings: %w", err)
		}
		return nil
	})
}
