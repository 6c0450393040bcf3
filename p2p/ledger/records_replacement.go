package ledger

import (
	"regexp"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Steps of a Replacement, in this order.
const (
	// StepRemove: a master takes the old node's etcd member and its Node away.
	StepRemove = "remove"
	// StepRemoved: that is done; the coordinator gives the place on.
	StepRemoved = "removed"
	// StepJoin: the successor becomes a master.
	StepJoin = "join"
)

// Replacement is a change of members under way. Each step is a compare-and-set,
// and the etcd member is named by its ID, so that an executor who comes late
// removes nobody else (history S14).
type Replacement struct {
	Old string `json:"old"`
	// Member is the old node's etcd member ID in hexadecimal, empty when it is
	// none.
	Member string `json:"member,omitempty"`
	// Survivor goes on alone with etcd's data, when it and the old node were all of
	// etcd; else it is empty.
	Survivor string `json:"survivor,omitempty"`
	// Successor takes the place, empty when nobody does.
	Successor string `json:"successor,omitempty"`
	Step      string `json:"step"`
	// Gone: the old node is no member afterwards. Else it is a worker.
	Gone   bool   `json:"gone,omitempty"`
	Reason string `json:"reason"`
}

// Removed says that a node is no member any more. The record stays, and so does
// the node's address.
type Removed struct {
	Reason string `json:"reason"`
	// Role is what it was; a master keeps what masters know.
	Role string `json:"role,omitempty"`
}

// What a Request asks for.
const (
	RequestLeave   = "leave"
	RequestRemove  = "remove"
	RequestReplace = "replace"
)

// Request is what an operator asks of the planner about a node.
type Request struct {
	Do string `json:"do"`
}

// IsRemoved says whether a node was a member and is none any more.
func IsRemoved(v View, id peer.ID) bool {
	_, removed := v.Get(RemovedKey(id))
	return removed
}

const maxReason = 512 // bytes

var etcdMemberID = regexp.MustCompile(`^[0-9a-f]{1,16}$`)

// checkReplacement allows the steps of a replacement in their order.
func (s ruleSet) checkReplacement(ch change) error {
	next, old, err := decodeChange[Replacement](ch)
	if err != nil {
		return err
	}
	for _, text := range []string{next.Old, next.Successor, next.Survivor} {
		if text == "" && next.Old != "" {
			continue // nobody takes the place, or goes on alone
		}
		if id, err := peer.Decode(text); err != nil || id.String() != text {
			return refusedf("the replacement names %q, which is not a peer ID", text)
		}
	}
	survivor, _ := peer.Decode(next.Survivor) // checked above, or empty
	same := ch.old.Index > 0 && next.Old == old.Old && next.Gone == old.Gone && (next.Survivor == old.Survivor || old.Survivor == "")
	steps := []string{StepRemove, StepRemoved, StepJoin}
	known := slices.Contains(steps, next.Step)
	// Where there is no cluster to be taken out of, several steps are one decision.
	begins := known && (ch.old.Index == 0 || old.Step == StepJoin && next.Old == old.Successor)
	equal := next.Member == old.Member && next.Survivor == old.Survivor
	names := same && next.Step == StepRemove && old.Step == StepRemove && next.Member != "" && !equal
	follows := known && same && equal && slices.Index(steps, next.Step) > slices.Index(steps, old.Step)
	switch {
	case next.Old == next.Successor:
		return refusedf("a node does not replace itself")
	case next.Survivor != "" && (next.Survivor == next.Old || next.Member == "" || !slices.Contains(Masters(s.view), survivor)):
		return refusedf("%q cannot go on alone with the data of etcd: that is for a master that shares them with the member that is lost", next.Survivor)
	case next.Member != "" && !etcdMemberID.MatchString(next.Member):
		return refusedf("%q is not the ID of an etcd member: 16 hexadecimal digits at most", next.Member)
	case len(next.Reason) > maxReason:
		return refusedf("the reason of the replacement has %d bytes, more than %d", len(next.Reason), maxReason)
	case !begins && !names && !follows:
		return refusedf("step %q of the replacement of %s does not follow step %q of %s", next.Step, next.Old, old.Step, old.Old)
	}
	return nil
}

func (s ruleSet) checkRemoved(ch change) error {
	next, _, err := decodeChange[Removed](ch)
	if err != nil {
		return err
	}
	if _, err := KeyID(ch.key); err != nil {
		return refusedf("%v", err)
	}
	if len(next.Reason) > maxReason {
		return refusedf("the reason has %d bytes, more than %d", len(next.Reason), maxReason)
	}
	return nil
}

func (s ruleSet) checkRequest(ch change) error {
	next, _, err := decodeChange[Request](ch)
	if err != nil {
		return err
	}
	id, err := KeyID(ch.key)
	if err != nil {
		return refusedf("%v", err)
	}
	switch {
	case !IsMember(s.view, id):
		return refusedf("%s is not a member of the site", id)
	case next.Do != RequestLeave && next.Do != RequestRemove && next.Do != RequestReplace:
		return refusedf("%q is nothing that can be asked for a node", next.Do)
	case next.Do == RequestLeave && ch.author != id:
		return refusedf("only %s itself may ask to leave", id)
	case ch.author != s.coordinator && ch.author != id && !slices.Contains(Masters(s.view), ch.author):
		return refusedf("only a master may ask for the removal of another node")
	case ch.author == id && next.Do != RequestLeave && !slices.Contains(Masters(s.view), ch.author):
		return refusedf("only a master may ask for a removal")
	}
	return nil
}
