package ledger

import "testing"

func TestTheVirtualAddressIsGrantedTakenAwayAndPutDownByThoseWhoMay(t *testing.T) {
	c := newCourt(t)
	vip := func(holder string, fence uint64, status string) VIP {
		return VIP{Holder: holder, Fence: fence, Status: status}
	}
	coordinator, master, w1 := c.coordinator.ID().String(), c.master.ID().String(), c.w1.ID().String()

	c.allowed(c.coordinator, KeyVIP, vip(master, 1, VIPHeld))
	c.refused("only the coordinator", c.master, KeyVIP, vip(master, 1, VIPHeld))
	c.refused("only the coordinator", c.w1, KeyVIP, vip(w1, 1, VIPHeld))
	c.refused("not a master", c.coordinator, KeyVIP, vip(w1, 1, VIPHeld))
	c.refused("does not follow", c.coordinator, KeyVIP, vip(master, 2, VIPHeld))
	c.refused("not the one to end", c.coordinator, KeyVIP, vip(master, 0, VIPRevoked))
	c.refused("not a peer ID", c.coordinator, KeyVIP, vip("", 1, VIPHeld))
	c.refused("not what becomes", c.coordinator, KeyVIP, vip(master, 1, "lost"))

	c.put(KeyVIP, vip(master, 1, VIPHeld))
	c.refused("taken away before", c.coordinator, KeyVIP, vip(coordinator, 2, VIPHeld))
	c.refused("put down, once it was taken away", c.master, KeyVIP, vip(master, 1, VIPReleased))
	c.refused("only the coordinator may take", c.master, KeyVIP, vip(master, 1, VIPRevoked))
	c.allowed(c.coordinator, KeyVIP, vip(master, 1, VIPRevoked))

	c.put(KeyVIP, vip(master, 1, VIPRevoked))
	c.allowed(c.master, KeyVIP, vip(master, 1, VIPReleased))
	c.refused("only who held", c.coordinator, KeyVIP, vip(master, 1, VIPReleased))
	c.refused("only the coordinator may grant", c.master, KeyVIP, vip(master, 2, VIPHeld))
	c.allowed(c.coordinator, KeyVIP, vip(coordinator, 2, VIPHeld))
	c.refused("does not follow", c.coordinator, KeyVIP, vip(coordinator, 1, VIPHeld))
}
