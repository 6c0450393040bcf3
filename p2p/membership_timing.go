package p2p

import (
	"fmt"
	"time"
)

// MembershipTiming is how often a membership does what. Every node of a site
// uses the same.
type MembershipTiming struct {
	ProbeInterval    time.Duration // one peer is pinged in each
	ProbeTimeout     time.Duration // then others are asked to ping it, until the interval ends
	SuspicionMult    int           // a suspect has SuspicionMult * max(1, log10(N)) intervals to refute
	SuspicionMaxMult int           // as many times longer while nobody else confirms
	GossipInterval   time.Duration // news is sent at this pace; nothing is sent without news
	PushPullInterval time.Duration // everything is compared with one random peer
	RejoinMin        time.Duration // first pause before a lost peer is tried again
	RejoinMax        time.Duration // longest such pause
	StreamTimeout    time.Duration // opening a stream, and one whole exchange on it
	FlushInterval    time.Duration // facts of others are written to disk
}

// LANTiming notices a dead node of a small site within 10 s and has an idle
// node send some 200 bytes of payload per second.
func LANTiming() MembershipTiming {
	return MembershipTiming{
		// A dead node is noticed within 10 s in 19 cases of 20 at 1.5 s, in
		// simulation; this leaves room for a slow machine. Memberlist's default
		// of 1 s would cost a quarter more, all the time.
		ProbeInterval: 1250 * time.Millisecond,
		// Memberlist's LAN default, many times the round trip of a relay.
		ProbeTimeout: 500 * time.Millisecond,
		// 3 is the smallest that wants a second opinion (memberlist waits for
		// SuspicionMult-2 confirmations): 3.75 s with it, 7.5 s without.
		SuspicionMult:    3,
		SuspicionMaxMult: 2,
		// Memberlist's LAN default: news crosses a site in about a second.
		GossipInterval: 200 * time.Millisecond,
		// Joining and rejoining compare at once, and answers to pings show
		// what gossip missed; this is the last resort.
		PushPullInterval: 90 * time.Second,
		RejoinMin:        500 * time.Millisecond,
		// So that a healed partition is whole again within half a minute.
		RejoinMax:     15 * time.Second,
		StreamTimeout: 10 * time.Second, // memberlist's default
		FlushInterval: 30 * time.Second, // losing it costs one pull from a peer
	}
}

func (t MembershipTiming) validate() error {
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"ProbeInterval", t.ProbeInterval},
		{"ProbeTimeout", t.ProbeTimeout},
		{"GossipInterval", t.GossipInterval},
		{"PushPullInterval", t.PushPullInterval},
		{"RejoinMin", t.RejoinMin},
		{"StreamTimeout", t.StreamTimeout},
		{"FlushInterval", t.FlushInterval},
	} {
		if d.value <= 0 {
			return fmt.Errorf("membership timing: %s must be positive, it is %v", d.name, d.value)
		}
	}
	switch {
	case t.ProbeTimeout >= t.ProbeInterval:
		return fmt.Errorf("membership timing: ProbeTimeout %v leaves no time in ProbeInterval %v to ask others", t.ProbeTimeout, t.ProbeInterval)
	case t.RejoinMax < t.RejoinMin:
		return fmt.Errorf("membership timing: RejoinMax %v is below RejoinMin %v", t.RejoinMax, t.RejoinMin)
	case t.SuspicionMult < 1 || t.SuspicionMaxMult < 1:
		return fmt.Errorf("membership timing: SuspicionMult %d and SuspicionMaxMult %d must be at least 1", t.SuspicionMult, t.SuspicionMaxMult)
	}
	return nil
}
