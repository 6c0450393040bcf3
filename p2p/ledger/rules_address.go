package ledger

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// nextAddress is where a site without counter begins: the first host of the
// range.
const nextAddress = 1

func (s ruleSet) counter(v View) (uint64, error) {
	r, ok, err := Read[Counter](v, KeyCounter)
	if err != nil {
		return 0, refusedf("the address counter: %v", err)
	}
	if !ok {
		return nextAddress, nil
	}
	return r.Value.Next, nil
}

func (s ruleSet) checkCounter(ch change) error {
	next, _, err := decodeChange[Counter](ch)
	if err != nil {
		return err
	}
	old, err := s.counter(s.view)
	if err != nil {
		return err
	}
	if next.Next < old {
		return refusedf("the address counter cannot go back from %d to %d", old, next.Next)
	}
	return nil
}

// checkAddress holds that addresses come from the counter, in the transaction
// that moves it, and that an identity keeps the one that it has.
func (s ruleSet) checkAddress(ch change) error {
	next, old, err := decodeChange[Address](ch)
	if err != nil {
		return err
	}
	if err := s.checkAboutMember(ch); err != nil {
		return err
	}
	if ch.old.Index > 0 {
		if next.Addr != old.Addr {
			return refusedf("%q keeps the address %s for the life of the site", ch.key, old.Addr)
		}
		return nil
	}
	g, ok := ReadGenesis(s.view)
	if !ok {
		return refusedf("the site has no genesis record yet")
	}
	offset, err := AddressOffset(g.Range, next.Addr)
	if err != nil {
		return refusedf("the address of %q: %v", ch.key, err)
	}
	from, err := s.counter(s.view)
	if err != nil {
		return err
	}
	to, err := s.counter(s.after(ch.txn))
	if err != nil {
		return err
	}
	if offset < from || offset >= to {
		return refusedf("address %s is number %d of the range, this transaction takes numbers %d to %d from the counter", next.Addr, offset, from, to-min(to, 1))
	}
	for _, op := range ch.txn.Ops {
		var other Address
		if op.Key != ch.key && strings.HasPrefix(op.Key, PrefixAddress) && json.Unmarshal(op.Value, &other) == nil && other.Addr == next.Addr {
			return refusedf("address %s is given twice", next.Addr)
		}
	}
	return nil
}

// AddressOffset returns which address of the range addr is, counted from the
// range's own (0). The first and, in IPv4, the last one are no host's.
func AddressOffset(prefix, addr string) (uint64, error) {
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		return 0, fmt.Errorf("address range %q: %w", prefix, err)
	}
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return 0, fmt.Errorf("address %q: %w", addr, err)
	}
	if a.String() != addr {
		return 0, fmt.Errorf("address %q is written %s", addr, a)
	}
	p = p.Masked()
	if !p.Contains(a) {
		return 0, fmt.Errorf("address %s is not in %s", a, p)
	}
	offset := lowBits(a) - lowBits(p.Addr())
	if offset == 0 {
		return 0, fmt.Errorf("address %s is the range's own", a)
	}
	if hostBits := a.BitLen() - p.Bits(); a.Is4() && offset == 1<<hostBits-1 {
		return 0, fmt.Errorf("address %s is the range's broadcast address", a)
	}
	return offset, nil
}

// NthAddress returns the address at an offset of the range; false beyond it.
func NthAddress(prefix string, offset uint64) (netip.Addr, bool) {
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		return netip.Addr{}, false
	}
	b := p.Masked().Addr().AsSlice()
	carry := offset
	for i := len(b) - 1; i >= 0 && carry > 0; i-- {
		sum := uint64(b[i]) + carry&0xff
		b[i] = byte(sum)
		carry = carry>>8 + sum>>8
	}
	a, _ := netip.AddrFromSlice(b)
	if carry > 0 || !a.IsValid() {
		return netip.Addr{}, false
	}
	if n, err := AddressOffset(prefix, a.String()); err != nil || n != offset {
		return netip.Addr{}, false
	}
	return a, true
}

func lowBits(a netip.Addr) uint64 {
	var v uint64
	b := a.AsSlice()
	for _, x := range b[max(0, len(b)-8):] {
		v = v<<8 | uint64(x)
	}
	return v
}
