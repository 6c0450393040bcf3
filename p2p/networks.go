package p2p

import "slices"

// MaxFormerNetworks is how many tokens that were replaced a node goes on
// knowing: enough that a machine which was off for several rotations still finds
// the others, and that one with a token of the last few is told so.
const MaxFormerNetworks = 4

// Networks is what a node knows of the site's tokens: the present one's network,
// and those of tokens that it replaced, newest first. Only the present one lets
// newcomers in; under the former names a node still answers, so that members
// that were away find it, and newcomers hear that their token was replaced.
type Networks struct {
	Epoch   uint64 // of enrolment: how often the token was replaced
	Present Network
	Former  []Network
}

// Equal reports whether a and b are the same networks of the same epoch.
func (a Networks) Equal(b Networks) bool {
	return a.Epoch == b.Epoch && a.Present.Same(b.Present) && slices.EqualFunc(a.Former, b.Former, Network.Same)
}

// Same reports whether a and b are one network: the same secret and network_id.
func (n Network) Same(o Network) bool { return n.Label("token") == o.Label("token") }

// enrolmentKeys are what newcomers prove, by whichever token they have.
type enrolmentKeys struct {
	epoch   uint64
	present *[32]byte // nil if this end holds none
	former  [][32]byte
}

func (n Networks) enrolmentKeys() enrolmentKeys {
	present := n.Present.EnrolmentKey()
	keys := enrolmentKeys{epoch: n.Epoch, present: &present}
	for _, former := range n.Former[:min(len(n.Former), MaxFormerNetworks)] {
		keys.former = append(keys.former, former.EnrolmentKey())
	}
	return keys
}
