package ledger

import "time"

// Timing holds every duration and threshold of a ledger. SiteTiming is for
// sites, LabTiming for tests in one process.
type Timing struct {
	// HeartbeatTimeout: a voter that heard nothing from the coordinator for
	// this long (drawn between once and twice) asks for a pre-vote. Raft sends
	// a heartbeat at random between a tenth and a fifth of it.
	HeartbeatTimeout time.Duration
	// ElectionTimeout: a candidate without a majority tries again after once to
	// twice this. Not below HeartbeatTimeout (a rule of hashicorp/raft).
	ElectionTimeout time.Duration
	// LeaderLease: a coordinator that did not reach a quorum for this long
	// steps down. Below HeartbeatTimeout, so that the old one has stopped
	// deciding before a new one can start.
	LeaderLease time.Duration
	// CommitInterval: how often Raft itself tells voters, unasked, how far the
	// log is committed (once to twice this). They hear it at once on the
	// follower stream, so this is only the way for a stream that is broken.
	CommitInterval time.Duration
	// RPCTimeout bounds one Raft message and its answer.
	RPCTimeout time.Duration

	// SnapshotInterval is how often Raft looks whether SnapshotThreshold
	// commands have come since the last snapshot; TrailingLogs commands stay in
	// its log then, for voters that were away for a moment.
	SnapshotInterval  time.Duration
	SnapshotThreshold uint64
	TrailingLogs      uint64

	// ProposeAttempt bounds one try to reach the coordinator and hear its
	// answer; ProposeGiveUp all tries of one Propose.
	ProposeAttempt time.Duration
	ProposeGiveUp  time.Duration

	// Keepalive is how often a silent follower stream says that it lives. A
	// stream silent for twice this and a second is given up.
	Keepalive time.Duration
	// FollowRetry is the pause before another server is asked (plus up to as
	// much again, at random).
	FollowRetry time.Duration
}

// SiteTiming suits a site: nodes are on LANs or behind ordinary Internet links,
// idle bytes cost money, and a new coordinator within ten seconds is soon enough
// because nothing that runs depends on it.
func SiteTiming() Timing {
	return Timing{
		// 3 s: heartbeats each 0.3 to 0.6 s, about 2 per second and voter of
		// some 60 bytes and as many of headers (see delta.go). The vote needs a
		// majority that has lost the coordinator: 3 to 9 s, p95 about 8.
		HeartbeatTimeout: 3 * time.Second,
		ElectionTimeout:  3 * time.Second,
		// Four heartbeats may get lost before a coordinator steps down.
		LeaderLease:    2500 * time.Millisecond,
		CommitInterval: 5 * time.Second,
		RPCTimeout:     3 * time.Second,

		SnapshotInterval:  2 * time.Minute,
		SnapshotThreshold: 1024,
		TrailingLogs:      256,

		// Longer than the lease: a coordinator cut off from its quorum finds
		// out, and says so, within it.
		ProposeAttempt: 4 * time.Second,
		// Longer than nearly every election.
		ProposeGiveUp: 15 * time.Second,

		Keepalive:   15 * time.Second,
		FollowRetry: 500 * time.Millisecond,
	}
}

// LabTiming suits many nodes in one process or on one machine that should move
// fast and may be starved of CPU for a moment.
func LabTiming() Timing {
	t := SiteTiming()
	t.HeartbeatTimeout = 500 * time.Millisecond
	t.ElectionTimeout = 500 * time.Millisecond
	t.LeaderLease = 400 * time.Millisecond
	t.CommitInterval = time.Second
	t.RPCTimeout = time.Second
	t.SnapshotInterval = time.Second
	t.ProposeAttempt = 2 * time.Second
	t.Keepalive = time.Second
	t.FollowRetry = 50 * time.Millisecond
	return t
}
