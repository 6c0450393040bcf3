// Package sim runs whole sites, up to a thousand nodes, in virtual time in one process: no host, no disk, no wall clock.
// Every choice (delays, losses, faults, site IDs) comes from one seeded generator and every event from one queue, so a seed
// replays a history exactly; a failing test prints it, and MUSTER_SIM_SEED=N runs that history alone.
//
// # What is the product's code, and what is a model
//
// The product's own code decides everything that is decided:
//
//   - roles.PlanFounding, roles.Next, roles.ApplyAll, roles.MayStart and roles.MustWipe, with the inputs that a node would
//     give them: its own view of gossip, its own copy of the ledger, its own durations;
//   - ledger.PlanVoters, which makes the masters the voters;
//   - the founding machine of p2p/ledger, message for message in its wire encoding, through [ledger.FoundingStepper]; only
//     its signatures are a cheap stand-in, because a thousand nodes sign and verify a lot;
//   - the durations of p2p.LANTiming, ledger.SiteTiming and ledger.SiteFoundingTiming.
//
// The rest are small models, no stricter than what they stand for:
//
//   - Gossip (hashicorp/memberlist) is SWIM: a probe in each interval, three helpers after the timeout, suspicion that
//     others confirm and the suspect refutes, news to three peers with a bounded number of repetitions, comparison of
//     everything on joining and when answers to pings show a difference, and the product's loop that tries lost peers again
//     for ever. Lifeguard's awareness is left out, so the model suspects more than the product does.
//   - Raft (hashicorp/raft) is one list of entries for each site. A coordinator is elected by, and commits only with, a live
//     majority of the voters that it reaches in both directions and whose disks answer; cut off, it steps down after its
//     lease. A change of the voters takes effect when it is committed. So the model cannot show a fault in Raft itself. It does show what Raft leaves to us: plans that
//     commit late, twice, or after the next coordinator has planned too.
//   - The follower stream: one server for each follower, entries in order, each shown when it is on the follower's disk;
//     broken streams are found out by silence, or by gossip's word that their server is dead, and opened again with another server.
//   - K3s: it starts in some seconds, is Ready, and its first server has a CA hash of its own. It has no etcd: with Kubernetes
//     lost masters are only reported (package roles' property tests and the scenarios replace those).
//   - Streams lose nothing: a lost packet comes again later. Datagrams (mDNS) are lost.
//
// # What is checked
//
// After every commit and every change on a disk: one founding for each founder; a promise kept until it is aborted; one Kubernetes
// cluster for each epoch, and nobody joins before its CA is committed; an epoch with a CA is never superseded; addresses
// and names unique, an address kept for ever; never more masters than asked; decisions only with a majority, which no change of the
// voters costs; no copy goes back. At the end, when the faults are over: every node of a site has its place, or the planner says
// why not; the masters are the voters, and no replacement is half done.
package sim
