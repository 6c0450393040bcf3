// Package p2p is the mesh: how nodes that were given the same token find each
// other, prove that they belong, see who is alive, and spread what each says
// about itself. It knows nothing of sites' decisions beyond what its callers
// tell it; those live in p2p/ledger.
//
// # From the bottom up
//
//   - A [Token] is the one secret line; [Token.Network] derives from it and the
//     network_id every key and every public name, each for one use.
//   - An [Identity] is the node's Ed25519 key, bound to its hardware.
//   - A [Host] is libp2p with a gate in front: a connection exists for the swarm
//     only after both ends have proved that they belong (admission.go). Each
//     protocol says whether it is for members or for newcomers too ([Access]).
//   - [Discovery] finds peers by multicast DNS, bootstrap addresses, an address
//     book on disk and peers of peers, and dials lost ones for ever.
//   - [Facts] are one signed record per node, written by that node alone.
//   - A [Membership] is SWIM over the host's streams: who is alive, and the
//     carrier of facts.
//
// # Promises
//
//   - A stranger learns nothing but that something speaks TLS here: no protocol,
//     identify included, runs before admission.
//   - A secret never reaches a log, an error or a String method.
//   - Every decoder has a limit, and malformed input changes nothing.
//   - What is written to disk is whole after a power cut ([WriteFile]).
//   - Whoever starts a goroutine here waits for it in its Close.
//
// The wire formats are in docs/PROTOCOL.md, with vectors in testdata.
package p2p
