package lab

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// lossScale is in how many parts a frame's fate is drawn: losses are exact to a hundredth of a percent.
const lossScale = 10_000

// writeFilter makes the switch drop what partition and losses of s say. The table is replaced as a whole in one transaction,
// so there is no moment with half a partition.
func (s *state) writeFilter() error {
	ns, err := netns.GetFromPid(s.Switch.PID)
	if err != nil {
		return fmt.Errorf("filter in the switch: %w", err)
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		return fmt.Errorf("filter in the switch: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyBridge, Name: fmt.Sprintf("muster-lab-%d", s.Subnet)}
	conn.AddTable(table) // so that deleting it never fails
	conn.DelTable(table)
	if err := s.addRules(conn, table); err != nil {
		return fmt.Errorf("filter in the switch: %w", err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("filter in the switch: nftables: %w (this kernel needs nftables for bridges)", err)
	}
	return nil
}

func (s *state) addRules(conn *nftables.Conn, table *nftables.Table) error {
	lossy := false
	for _, n := range s.Nodes {
		lossy = lossy || n.Loss > 0 || n.Drop != DropNone
	}
	if len(s.Partition) == 0 && !lossy {
		return nil
	}
	conn.AddTable(table)
	accept := nftables.ChainPolicyAccept
	chain := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook,
			Priority: nftables.ChainPriorityFilter, Policy: &accept,
		})
	}
	sent := chain("sent", nftables.ChainHookPrerouting)
	between := chain("between", nftables.ChainHookForward)
	received := chain("received", nftables.ChainHookPostrouting)
	for _, n := range s.Nodes {
		out, in := n.Loss, n.Loss
		switch n.Drop {
		case DropOut:
			out = 100
		case DropIn:
			in = 100
		}
		port := ifname(s.bridgePort(n))
		if out > 0 {
			conn.AddRule(&nftables.Rule{Table: table, Chain: sent, Exprs: dropSome(expr.MetaKeyIIFNAME, port, out)})
		}
		if in > 0 {
			conn.AddRule(&nftables.Rule{Table: table, Chain: received, Exprs: dropSome(expr.MetaKeyOIFNAME, port, in)})
		}
	}
	sets := make([]*nftables.Set, len(s.Partition))
	for i, group := range s.Partition {
		sets[i] = &nftables.Set{Table: table, Name: fmt.Sprintf("side%d", i), KeyType: nftables.TypeIFName}
		var ports []nftables.SetElement
		for _, name := range group {
			n, err := s.node(name)
			if err != nil {
				return err
			}
			ports = append(ports, nftables.SetElement{Key: ifname(s.bridgePort(n))})
		}
		if err := conn.AddSet(sets[i], ports); err != nil {
			return err
		}
	}
	for i, from := range sets {
		for j, to := range sets {
			if i == j || s.OneWay && i > j {
				continue
			}
			conn.AddRule(&nftables.Rule{Table: table, Chain: between, Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
				&expr.Lookup{SourceRegister: 1, SetName: from.Name, SetID: from.ID},
				&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
				&expr.Lookup{SourceRegister: 1, SetName: to.Name, SetID: to.ID},
				&expr.Verdict{Kind: expr.VerdictDrop},
			}})
		}
	}
	return nil
}

// dropSome drops percent of the frames whose interface is port, each drawn on its own.
func dropSome(key expr.MetaKey, port []byte, percent float64) []expr.Any {
	limit := uint32(math.Round(percent * lossScale / 100))
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: port},
		&expr.Numgen{Register: 1, Modulus: lossScale, Type: unix.NFT_NG_RANDOM},
		// Comparing less-than is bytewise, so the number is put into network order first.
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binary.BigEndian.AppendUint32(nil, limit)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}

// ifname is an interface name as the kernel compares it: 16 bytes, filled with zeros.
func ifname(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}
