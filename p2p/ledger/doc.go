// Package ledger holds what a site has decided: who its members are, which role
// and address each has, which secrets are sealed to whom.
//
// # How a decision is made
//
// The masters of a site are the voters of a Raft log. Any node may propose a
// [Txn]; the proposal is signed by its author, carried to the coordinator (the
// Raft leader) through any voter, checked there against the table of who may
// propose what, committed, and pushed to every other node over a stream. A node
// keeps its own copy on disk, voter or not, and answers reads from it alone, so
// that a site without quorum, or one that has just been powered on, still knows
// everything that it knew.
//
// # What is frozen
//
// The state machine is a plain key/value store with compare-and-set
// transactions. During every upgrade a site runs two versions of this program,
// and they must turn the same log into the same state. So the encoding of a
// command, the rules of [state.apply], the limits in txn.go and the encoding of
// a snapshot never change; testdata/ holds vectors that say so. Meaning lives in
// typed JSON records (records.go), which are checked when they are proposed,
// never when they are applied.
//
// # Reading
//
// Reads are local and may lag behind the coordinator by a stream's delay. A
// proposer reads its own writes: [Ledger.Propose] returns when the local copy
// holds the result. An index never goes back, not even over a restart.
package ledger
