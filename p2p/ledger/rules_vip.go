package ledger

import (
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
)

// checkVIP allows the steps in the life of a virtual address, and no other. That
// the coordinator waits between taking it away and giving it to somebody else is
// beyond a rule: it is the planner's (roles.NextVIP).
func (s ruleSet) checkVIP(ch change) error {
	next, old, err := decodeChange[VIP](ch)
	if err != nil {
		return err
	}
	holder, err := peer.Decode(next.Holder)
	if err != nil || holder.String() != next.Holder {
		return refusedf("the virtual address's holder %.64q is not a peer ID", next.Holder)
	}
	byCoordinator := ch.author == s.coordinator
	switch next.Status {
	case VIPHeld:
		switch {
		case !byCoordinator:
			return refusedf("only the coordinator may grant the virtual address")
		case ch.old.Index > 0 && old.Status == VIPHeld:
			return refusedf("%s holds the virtual address: it is taken away before it is granted", old.Holder)
		case next.Fence != old.Fence+1:
			return refusedf("grant %d of the virtual address does not follow grant %d", next.Fence, old.Fence)
		case !slices.Contains(Masters(s.after(ch.txn)), holder):
			return refusedf("%s is not a master, only masters hold the virtual address", holder)
		}
		return nil
	case VIPRevoked, VIPReleased:
		switch {
		case ch.old.Index == 0 || next.Holder != old.Holder || next.Fence != old.Fence:
			return refusedf("grant %d of %s is not the one to end, which is %d", next.Fence, next.Holder, old.Fence)
		case next.Status == VIPRevoked && (!byCoordinator || old.Status != VIPHeld):
			return refusedf("only the coordinator may take the virtual address away, from who holds it")
		case next.Status == VIPReleased && (ch.author != holder || old.Status != VIPRevoked):
			// A release that was still on its way could else end a grant that was renewed since.
			return refusedf("only who held the virtual address may say that it is put down, once it was taken away")
		}
		return nil
	}
	return refusedf("%.32q is not what becomes of a virtual address", next.Status)
}
