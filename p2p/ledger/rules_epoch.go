package ledger

import (
	"regexp"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
)

// checkEpoch allows the steps in the life of a cluster epoch, and no other.
func (s ruleSet) checkEpoch(ch change) error {
	next, old, err := decodeChange[Epoch](ch)
	if err != nil {
		return err
	}
	init, err := peer.Decode(next.Init)
	if err != nil {
		return refusedf("the epoch's init node %q is not a peer ID", next.Init)
	}
	byCoordinator := ch.author == s.coordinator
	switch {
	case next.N == old.N+1:
		switch {
		case !byCoordinator:
			return refusedf("only the coordinator may begin a cluster epoch")
		case old.Formed:
			return refusedf("the cluster of epoch %d is formed; it is not superseded by itself", old.N)
		case next.CAHash != "" || next.Formed:
			return refusedf("a new cluster epoch begins without CA hash")
		case !slices.Contains(Masters(s.after(ch.txn)), init):
			return refusedf("the epoch's init node %s is not a master", init)
		}
		return nil
	case ch.old.Index == 0 || next.N != old.N || next.Init != old.Init:
		return refusedf("epoch %d of %s does not follow epoch %d of %s", next.N, next.Init, old.N, old.Init)
	case old.CAHash == "" && next.CAHash != "":
		switch {
		case ch.author != init:
			return refusedf("only the init node %s may commit the CA hash of its epoch", init)
		case next.Formed:
			return refusedf("an epoch is formed after its CA hash is committed")
		case !caHash.MatchString(next.CAHash):
			return refusedf("the CA hash is not 64 hexadecimal digits")
		}
		return nil
	case next.CAHash != old.CAHash:
		return refusedf("the CA hash of epoch %d is committed already", old.N)
	case next.Formed != old.Formed:
		if !byCoordinator || old.Formed || old.CAHash == "" {
			return refusedf("only the coordinator may declare an epoch formed, once, after its CA hash")
		}
	}
	return nil
}

var caHash = regexp.MustCompile(`^[0-9a-f]{64}$`)
