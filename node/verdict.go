package node

import (
	"fmt"
	"time"

	"github.com/muster-edge/muster/roles"
)

// Whether an image is good is judged by what this node sees of itself and of
// the others (docs/OS.md, history S23). A verdict of bad reboots the machine and
// in the end takes the image away from it, so nobody else's illness may lead to
// it: what others could be to blame for is undecided.

// Verdict is what is thought of the image that runs.
type Verdict string

// The verdicts.
const (
	// VerdictGood: the node is healthy in its role, and has been for a while.
	VerdictGood Verdict = "good"
	// VerdictBad: what is this node's own has been dead for upgrade.health_deadline.
	VerdictBad Verdict = "bad"
	// VerdictUndecided: neither yet, or nobody can tell.
	VerdictUndecided Verdict = "undecided"
)

// steadyFor is how long a node must have been healthy without a break. What ends
// again and again is healthy for moments.
const steadyFor = 20 * time.Second

// observation is what a node sees of itself and of the others, in terms of who
// is to blame.
type observation struct {
	// StateProblem says why this node's own state cannot be read; empty: it can.
	StateProblem string
	// Member is set in a site that is founded; Kubernetes while the site runs it.
	Member, Kubernetes bool
	// Role is what the site decided for this node, none if nothing yet.
	Role roles.Role
	// Connected is set while the mesh carries this node's address.
	Connected bool
	// Held says what K3s is not started yet for, which is not its own.
	Held string
	// Failed says why K3s cannot be started on this node.
	Failed string

	// Running is set while the K3s process lives, Kubelet while this node's kubelet
	// answers, Serving while this node's API server does; NodeReady is the Node's.
	Running, Kubelet, Serving, NodeReady bool
	// Waiting is what the driver says of K3s.
	Waiting string

	// Masters is how many masters the site has, this one included; ExternalDB is
	// set when they keep their data somewhere else.
	Masters    int
	ExternalDB bool
	// OthersServing are the other masters that are seen and serve the API.
	OthersServing int
	// APIReachable is set while an API server of another master answers this node.
	APIReachable bool
	// OthersReady are the other workers that are seen and Ready: the API is within
	// their reach.
	OthersReady int
}

// condition is how a node does at one moment.
type condition int

const (
	conditionWell    condition = iota // in its role
	conditionIll                      // by something of its own
	conditionExcused                  // others are to blame, or nobody can tell
)

// condition says how the node does, and why in a sentence.
func (o observation) condition() (condition, string) {
	switch {
	case o.StateProblem != "":
		return conditionIll, "this node's state cannot be read: " + o.StateProblem
	case !o.Member || !o.Kubernetes || o.Role == roles.None:
		return conditionWell, "the agent runs and reads its state"
	case !o.Connected:
		return conditionExcused, "the mesh does not carry this node's address yet"
	case o.Held != "":
		return conditionExcused, o.Held
	case o.Failed != "":
		return conditionIll, "K3s cannot be started: " + o.Failed
	case !o.Running:
		return o.blame("this node's K3s does not run")
	case !o.Kubelet:
		return o.blame("this node's K3s runs, and its kubelet does not")
	case !o.NodeReady || o.Role.IsMaster() && !o.Serving:
		return conditionExcused, "K3s and kubelet run, and nobody can tell whose fault the rest is: " + o.Waiting
	}
	return conditionWell, "the node is healthy in its role"
}

// blame says whether something of this node's that is dead can be dead because
// of others. K3s starts no kubelet before it has an API server, and may end when
// it finds none, or no majority of etcd.
func (o observation) blame(dead string) (condition, string) {
	if o.Role.IsMaster() {
		switch {
		case o.OthersServing > 0:
			return conditionIll, dead + " while another master serves"
		case o.ExternalDB:
			return conditionExcused, dead + ", and no other master serves: the datastore may be out of reach for all"
		case o.Masters > 1:
			return conditionExcused, dead + ", and no other master serves: etcd may lack its majority"
		}
		return conditionIll, dead + ", and it is the only master"
	}
	switch {
	case o.APIReachable:
		return conditionIll, dead + " though an API server answers this node"
	case o.OthersReady > 0:
		return conditionIll, dead + ": no API server answers this node, and other workers reach one"
	}
	return conditionExcused, dead + ": no API server answers, and no other worker is known to reach one"
}

// trial is a judgement over time, on a clock of the caller's that never goes
// back. The zero value is the beginning of one.
//
// Health counts without a break. Illness adds up: an API server that answers a
// busy site now and then would else save an image for ever whose K3s is dead all
// the time. What nobody can tell about takes as much away again, so that after an
// outage of others a node has its own time.
type trial struct {
	begun     bool
	condition condition     // at the last look
	looked    time.Duration // when that was
	well, ill time.Duration
}

// observe adds a look at the node and judges. The time between two looks counts
// if both saw the same.
func (t *trial) observe(now time.Duration, o observation, deadline time.Duration) (Verdict, string) {
	c, why := o.condition()
	var passed time.Duration
	if t.begun && c == t.condition {
		passed = now - t.looked
	}
	t.begun, t.condition, t.looked = true, c, now
	switch c {
	case conditionWell:
		t.well, t.ill = t.well+passed, 0
	case conditionIll:
		t.well, t.ill = 0, t.ill+passed
	case conditionExcused:
		t.well, t.ill = 0, max(0, t.ill-passed)
	}
	switch {
	case c == conditionWell && t.well >= steadyFor:
		return VerdictGood, why
	case c == conditionWell:
		return VerdictUndecided, fmt.Sprintf("%s for %s, and must be for %s", why, t.well.Round(time.Second), steadyFor)
	case c == conditionIll && t.ill >= deadline:
		return VerdictBad, fmt.Sprintf("%s, for %s", why, t.ill.Round(time.Second))
	case c == conditionIll:
		return VerdictUndecided, fmt.Sprintf("%s, for %s; the image is bad after %s of it", why, t.ill.Round(time.Second), deadline)
	}
	return VerdictUndecided, why
}
