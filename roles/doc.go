// Package roles decides who is what in a site: which nodes found it, who is a master and who a worker, which address and
// which name each has, and who initialises the Kubernetes cluster.
//
// It is a pure planner. Facts, decisions and a duration go in, proposed decisions and reasons come out; it does no I/O, has
// no clock, no goroutine and no randomness, and imports nothing of Muster. The same input gives the same output on every
// machine, whatever the order of its slices.
//
// # How it is driven
//
// Before there is a site, [PlanFounding] turns the nodes that see each other into the one record that genesis agrees on, or
// into the sentences that say what is missing. Afterwards the coordinator calls [Next] with the state that the ledger holds
// and the health that it observed itself, proposes the decisions in their order, and calls again whenever something
// changes. [Apply] is the meaning of a decision. Next is idempotent: once its decisions are applied it has none left. A
// plan may also be applied only up to some decision, because every prefix is a state that Next carries on from.
//
// Every decision names what must still hold when it commits (see [Decision]). A ledger that checks this with compare-and-set
// makes a duplicate, a late or a stale proposal change nothing.
//
// Every node, not just the coordinator, consults [MayStart] before it starts Kubernetes, [MustWipe] before it joins with
// data that it already holds, and [Explain] when somebody asks what it waits for.
//
// # Promises
//
//   - A Kubernetes cluster is initialised once per cluster epoch {n, init node, CA hash}. Nobody else starts before the CA
//     hash is committed. An epoch that has one is never superseded here.
//
//   - Addresses come from a counter and are never given twice in the life of a site. An identity keeps its address.
//
//   - Names are unique among the members. An identity keeps its name; a removed member's name is free again.
//
//   - There are never more masters than asked, and a static role is obeyed or refused with a reason.
//
//   - No member stays without a role for no reason: it has one, or [Plan] says why not.
//
//   - No wall clocks are compared. A node counts as gone after it was seen dead for long enough by the coordinator in
//     office, see [Input].
//
//   - There is one replacement at a time. A master that is lost while the control plane forms is replaced after a grace; one of
//     a formed control plane only when gossip and etcd on all other live masters call it dead for the policy's replace_after,
//     and never when that costs a majority, when it holds a reboot lease, or when it is the only one.
//
//   - Nothing that holds cluster data becomes something else without a wipe (see [MustWipe] and [Tenure]).
//
// # What is not here yet
//
// Growing or shrinking the set of masters.
package roles
