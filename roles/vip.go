package roles

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Times of the virtual address. The chain is: the holder asks the ledger whether it still holds it; from the moment before
// it asked it may keep the address for VIPLease; its kernel drops the address by itself before that is over (VIPLifetime);
// after a holder was given up, nobody else gets the address for VIPLease and VIPGrace.
const (
	// VIPLease outlasts the election of a coordinator (3 to 9 s), without which nobody can ask.
	VIPLease = 15 * time.Second

	// VIPRenew is how often the holder asks.
	VIPRenew = 3 * time.Second

	// VIPGrace covers what two machines' clocks differ in speed over a lease, and the kernel, which looks after lifetimes
	// once a second.
	VIPGrace = 3 * time.Second

	// VIPDead is how long a holder must be seen dead before it is given up: a coordinator that has just taken office may not
	// have heard of it yet.
	VIPDead = 5 * time.Second

	// VIPAPIDown is how long a holder's API server may be silent while another's answers. K3s restarts within it.
	VIPAPIDown = 45 * time.Second
)

// VIPLifetime returns for how many whole seconds from now the kernel may keep the address, when the ledger was asked at
// asked and its answer showed the lease; 0 for not at all. Both times are on the holder's own monotonic clock. One second is
// left to the kernel's own slack, so that what it drops late is dropped within the lease all the same.
func VIPLifetime(asked, now time.Duration) int {
	left := asked + VIPLease - now
	if now < asked || left > VIPLease {
		return 0 // not a clock that only goes forward
	}
	return max(0, int(left/time.Second)-1)
}

// VIPStatus is what became of a grant. The values are the ledger's.
type VIPStatus string

const (
	VIPHeld     VIPStatus = "held"
	VIPRevoked  VIPStatus = "revoked"  // taken away; the address may still be on the holder's interface
	VIPReleased VIPStatus = "released" // the holder has said that it is not
)

// VIP is the decision about who holds the virtual address. Fence numbers the grants.
type VIP struct {
	Holder NodeID
	Fence  uint64
	Status VIPStatus
}

// VIPAble is what a master says about itself and the virtual address.
type VIPAble struct {
	// Carries says that it has an interface for the address.
	Carries bool
	// Serving says that its API server answers; Silent for how long the observer has seen it not do so.
	Serving bool
	Silent  time.Duration
}

// VIPInput is all that NextVIP looks at.
type VIPInput struct {
	Input
	// VIP is nil while nobody ever held the address.
	VIP *VIP
	// Able has an entry for every master whose facts are known.
	Able map[NodeID]VIPAble
	// Revoked is for how long Self has seen the present grant revoked, on its own monotonic clock.
	Revoked time.Duration
}

// NextVIP returns the decision that is due about the virtual address, nil if there is none, and what it waits for.
func NextVIP(in VIPInput) (*VIP, []Waiting) {
	p := &vipPlanner{VIPInput: in}
	return p.next(), p.waiting
}

type vipPlanner struct {
	VIPInput
	waiting []Waiting
}

func (p *vipPlanner) next() *VIP {
	wanted := p.State.Policy.VIP.IsValid()
	if p.VIP != nil && p.VIP.Status == VIPHeld {
		if wanted && !p.giveUp(p.VIP.Holder) {
			return nil
		}
		return &VIP{Holder: p.VIP.Holder, Fence: p.VIP.Fence, Status: VIPRevoked}
	}
	if !wanted {
		return nil
	}
	best := p.best()
	if best == "" {
		p.wait("no master can hold the virtual address %s: none that is alive has a network for it, see kubevip.interface", p.State.Policy.VIP)
		return nil
	}
	switch {
	case p.VIP == nil:
		return &VIP{Holder: best, Fence: 1, Status: VIPHeld}
	case p.VIP.Status == VIPReleased, p.VIP.Holder == best, p.Revoked >= VIPLease+VIPGrace:
		return &VIP{Holder: best, Fence: p.VIP.Fence + 1, Status: VIPHeld}
	}
	p.wait("the virtual address %s moves once its last holder has certainly dropped it, in %s", p.State.Policy.VIP, seconds(VIPLease+VIPGrace-p.Revoked))
	return nil
}

func (p *vipPlanner) wait(format string, args ...any) {
	p.waiting = append(p.waiting, Waiting{Reason: fmt.Sprintf(format, args...)})
}

// giveUp reports whether the address is to be taken from its holder.
func (p *vipPlanner) giveUp(holder NodeID) bool {
	m, known := p.State.member(holder)
	able, heard := p.Able[holder]
	switch {
	case !known || m.Removed || !p.State.Roles[holder].IsMaster() || p.Health[holder].Conflict:
		return true
	case holder != p.Self && p.seenDead(holder) >= VIPDead:
		return true
	case !heard || holder != p.Self && !p.Health[holder].Alive:
		return false // nothing is known against it yet
	case !able.Carries:
		return p.best() != ""
	}
	best := p.best()
	return !able.Serving && able.Silent >= VIPAPIDown && best != "" && p.Able[best].Serving
}

// best returns the master that should hold the address, "" if none can: one whose API server answers, else the last
// holder, else the first by ID.
func (p *vipPlanner) best() NodeID {
	var able []NodeID
	for _, m := range p.State.live() {
		if p.State.Roles[m.ID].IsMaster() && p.alive(m.ID) && !p.Health[m.ID].Conflict && p.Able[m.ID].Carries {
			able = append(able, m.ID)
		}
	}
	if len(able) == 0 {
		return ""
	}
	rank := func(id NodeID) int {
		switch {
		case p.Able[id].Serving:
			return 0
		case p.VIP != nil && p.VIP.Holder == id:
			return 1
		}
		return 2
	}
	return slices.MinFunc(able, func(a, b NodeID) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
}
