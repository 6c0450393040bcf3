package p2p

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

const (
	// Redialling backs off from redialFirst to redialMax, with jitter over the
	// upper half, so that a site that comes back does not dial in step.
	redialFirst = 500 * time.Millisecond
	redialMax   = 30 * time.Second

	// yield is how much later the end with the greater ID dials: where both find
	// each other at one instant, one connection is made and not two.
	yield = 400 * time.Millisecond

	// forgetAfter is how long somebody is dialled who was only ever sighted.
	forgetAfter = 10 * time.Minute

	// sightedPause is how soon a peer is dialled again because it was sighted.
	sightedPause = 5 * time.Second

	// directFirst and directMax are how often a peer that is connected through
	// others is dialled directly.
	directFirst = 30 * time.Second
	directMax   = 15 * time.Minute

	// Every second attempt asks some of those that are connected to relay.
	relayEvery  = 2
	relaysAsked = 3

	maxDials      = 16              // at a time
	maxTargets    = 4 * maxMembers  // against a flood of sightings
	dialPatience  = dialTimeout     // for one attempt
	dialerIdleMax = 5 * time.Second // between looks at who is wanted
)

// dialHost is the part of Host that a dialer uses.
type dialHost interface {
	ID() peer.ID
	Connect(ctx context.Context, info peer.AddrInfo) error
	Changed() <-chan struct{}
	connected(p peer.ID) bool
	relayed(p peer.ID) bool
	relaysFor(p peer.ID, most int) []multiaddr.Multiaddr
	probe(ctx context.Context, addr multiaddr.Multiaddr) (peer.AddrInfo, error)
}

// dialer keeps the host connected to its targets: peers that are wanted, for
// ever; bootstrap addresses, for ever; peers that were sighted, for a while.
type dialer struct {
	host   dialHost
	log    *slog.Logger
	wanted func() []peer.AddrInfo // nil: nobody

	mu      sync.Mutex
	targets map[string]*dialTarget
	wake    chan struct{}
	wg      sync.WaitGroup
}

// dialTarget is a peer, or a bootstrap address at which somebody may be.
type dialTarget struct {
	id        peer.ID // of a bootstrap address: who was there last, or ""
	addrs     []multiaddr.Multiaddr
	bootstrap multiaddr.Multiaddr

	forever  bool
	sighted  time.Time // last
	attempts int
	tried    time.Time // last
	next     time.Time
	dialling bool
	wasUp    bool
	detour   time.Duration // between dials of a peer that others relay; 0: they do not
}

func newDialer(host dialHost, log *slog.Logger) *dialer {
	return &dialer{host: host, log: log, targets: map[string]*dialTarget{}, wake: make(chan struct{}, 1)}
}

// bootstrap adds an address to try for ever.
func (d *dialer) bootstrap(addr multiaddr.Multiaddr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.targets["addr "+addr.String()] = &dialTarget{bootstrap: addr, forever: true}
	d.poke()
}

// learn adds where a peer may be, and keeps the pace at which it is dialled.
func (d *dialer) learn(info peer.AddrInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.targetLocked(info, time.Now()) != nil {
		d.poke()
	}
}

// sighted adds where a peer is known to be up, so it is dialled at once.
func (d *dialer) sighted(info peer.AddrInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.targetLocked(info, time.Now())
	if t == nil {
		return
	}
	// Not each time: it may announce itself and yet refuse us.
	if t.attempts > 0 && time.Since(t.tried) >= sightedPause {
		t.attempts, t.next = 0, time.Time{}
	}
	d.poke()
}

func (d *dialer) targetLocked(info peer.AddrInfo, now time.Time) *dialTarget {
	if info.ID == d.host.ID() || info.ID == "" {
		return nil
	}
	key := "peer " + string(info.ID)
	t, ok := d.targets[key]
	if !ok {
		if len(d.targets) >= maxTargets {
			return nil
		}
		t = &dialTarget{id: info.ID}
		if compareIDs(d.host.ID(), info.ID) > 0 {
			t.next = now.Add(dialJitter(yield))
		}
		d.targets[key] = t
	}
	t.sighted = now
	for _, addr := range info.Addrs {
		t.addrs = slices.DeleteFunc(t.addrs, addr.Equal)
		t.addrs = append(t.addrs, addr)
	}
	// The newest are last; the oldest go.
	t.addrs = t.addrs[max(0, len(t.addrs)-maxBookAddrs):]
	return t
}

// poke makes run look again.
func (d *dialer) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run dials until ctx ends.
func (d *dialer) run(ctx context.Context) {
	defer d.wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := d.host.Changed()
		timer.Reset(d.step(ctx, time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-d.wake:
		case <-timer.C:
		}
	}
}

// step starts the dials that are due and returns how long nothing more will be.
func (d *dialer) step(ctx context.Context, now time.Time) time.Duration {
	d.refreshWanted(now)
	d.mu.Lock()
	defer d.mu.Unlock()
	sleep, dials := dialerIdleMax, 0
	for _, t := range d.targets {
		if t.dialling {
			dials++
		}
	}
	for key, t := range d.targets {
		relayed := t.id != "" && d.host.relayed(t.id)
		switch {
		case t.dialling:
			continue
		case relayed:
			if t.detour == 0 {
				t.detour, t.next = directFirst, now.Add(dialJitter(directFirst))
			}
			t.attempts, t.wasUp, t.sighted = 0, true, now
		case t.id != "" && d.host.connected(t.id):
			t.detour = 0
			t.attempts, t.next, t.wasUp, t.sighted = 0, time.Time{}, true, now
			continue
		case !t.forever && now.Sub(t.sighted) > forgetAfter:
			delete(d.targets, key)
			continue
		}
		if t.wasUp && !relayed { // just lost
			t.wasUp, t.detour = false, 0
			if compareIDs(d.host.ID(), t.id) > 0 {
				t.next = now.Add(dialJitter(yield))
			}
		}
		if wait := t.next.Sub(now); wait > 0 {
			sleep = min(sleep, wait)
			continue
		}
		if len(t.addrs) == 0 && t.bootstrap == nil {
			continue // wanted, and nobody knows where it is
		}
		if dials >= maxDials {
			continue // the end of one of them pokes
		}
		dials++
		t.dialling, t.tried = true, now
		attempt := *t
		attempt.addrs = slices.Clone(t.addrs) // sightings change it in place
		d.wg.Go(func() { d.dial(ctx, t, attempt) })
	}
	return sleep
}

// refreshWanted makes a target of whoever is wanted, and leaves the others to be
// forgotten in time.
func (d *dialer) refreshWanted(now time.Time) {
	if d.wanted == nil {
		return
	}
	wanted := d.wanted() // not under the lock: it is somebody else's code
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.targets {
		t.forever = t.bootstrap != nil
	}
	for _, info := range wanted {
		key := "peer " + string(info.ID)
		t, known := d.targets[key]
		if !known {
			t = d.targetLocked(info, now)
		} else if len(t.addrs) == 0 {
			t.addrs = info.Addrs
		}
		if t != nil {
			t.forever = true
		}
	}
}

// dial makes one attempt. attempt is what t was when it started.
func (d *dialer) dial(ctx context.Context, t *dialTarget, attempt dialTarget) {
	dialling, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	info := peer.AddrInfo{ID: attempt.id, Addrs: attempt.addrs}
	var err error
	if attempt.bootstrap != nil {
		info, err = d.host.probe(dialling, attempt.bootstrap)
	}
	self := err == nil && info.ID == d.host.ID()
	if attempt.attempts%relayEvery == 1 && attempt.bootstrap == nil && attempt.detour == 0 {
		info.Addrs = append(info.Addrs, d.host.relaysFor(info.ID, relaysAsked)...)
	}
	if attempt.detour > 0 {
		dialling = direct(dialling)
	}
	if err == nil && !self {
		err = d.host.Connect(dialling, info)
	}
	if err != nil && ctx.Err() == nil {
		d.log.Debug("dial", "peer", info.ID.String(), "attempt", attempt.attempts+1, "error", err)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	t.dialling = false
	if attempt.bootstrap != nil && info.ID != "" {
		t.id = info.ID
	}
	t.next = time.Now().Add(redialDelay(t.attempts))
	if self {
		t.next = time.Now().Add(redialMax)
	}
	t.attempts++
	if t.detour > 0 {
		t.next = time.Now().Add(dialJitter(t.detour))
		t.detour = min(2*t.detour, directMax)
	}
	d.poke()
}

// redialDelay is how long to wait after the attempt of that number, from 0.
func redialDelay(attempt int) time.Duration {
	return dialJitter(min(redialMax, redialFirst<<min(attempt, 16)))
}

// dialJitter draws from the upper half of d.
func dialJitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}
