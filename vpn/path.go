package vpn

import (
	"net/netip"
	"slices"
	"time"
)

// Path says how packets reach a peer.
type Path string

// The paths to a peer.
const (
	PathNone   Path = "none"
	PathDirect Path = "direct"
	PathRelay  Path = "relay" // through the mesh
)

const (
	// directFirst is how long a new peer is looked for directly before packets
	// for it go through the mesh. A LAN answers in a millisecond; what takes
	// longer has routers on the way.
	directFirst = 3 * time.Second

	// Rounds of pings to all candidates of a peer without a direct path, further
	// and further apart: where there is no way there rarely will be one, and when
	// the network changes they begin anew.
	roundFirst = time.Second
	roundMax   = 2 * time.Minute

	// A direct path is doubted when nothing came back for as long as doubtAfter
	// though something was sent, and lost when pingsLost pings, pingPause apart,
	// stay without an answer. Together it is less than a TCP connection minds.
	doubtAfter = 4 * time.Second
	pingPause  = time.Second
	pingsLost  = 4

	// natRefresh keeps the mappings of routers: Linux forgets UDP that was
	// answered after 120 s, many boxes after 30 s.
	natRefresh = 20 * time.Second

	// WireGuard takes no handshake whose timestamp is not after all that it has seen
	// of the peer. So a machine whose clock was put back, or that came up without a
	// battery behind its clock, is not answered until its clock is where it was; it
	// asks its peers through the mesh, whose connections prove who asks, to forget.
	anewPause = 10 * time.Second
	// sessionLife is how long WireGuard sends with the keys of one handshake
	// (REJECT_AFTER_TIME).
	sessionLife = 3 * time.Minute

	// maxLearned bounds the endpoints that a peer was heard from beside those it
	// names.
	maxLearned = 4
)

// pathState is what this node knows of the way to one peer. It is pure: time and
// what happened come in, what to do comes out.
type pathState struct {
	candidates []netip.AddrPort
	learned    []netip.AddrPort // where pings of theirs came from, newest first

	path     Path
	endpoint netip.AddrPort // of a direct path
	since    time.Time      // of path
	begun    time.Time

	round     time.Time // the next
	roundGap  time.Duration
	assert    bool      // the device is to be told of endpoint again, once it answers
	backed    time.Time // a ping of theirs was last answered with one of ours
	unanswer  int       // pings to endpoint without a pong
	pinged    time.Time // endpoint, last
	confirmed time.Time // endpoint's last pong

	received, sent int64     // the device's counters, last
	sentSince      time.Time // sent without anything received; zero: all is answered

	handshake time.Time // as the device dates it
	shook     time.Time // when it became that; zero: never
	askedAnew time.Time
}

// deviceView is what the device says about a peer.
type deviceView struct {
	endpoint       netip.AddrPort
	handshake      time.Time
	received, sent int64
}

// pathStep is what to do.
type pathStep struct {
	ping     []netip.AddrPort
	endpoint netip.AddrPort // for the device to use, if valid
	relay    bool           // the device is to use the relay
	tell     bool           // the peer, through the mesh, that a round begins
	anew     bool           // the peer, through the mesh, is to forget the handshakes before
	changed  bool           // the path is another
}

func newPathState(now time.Time) *pathState {
	return &pathState{path: PathNone, begun: now, since: now, roundGap: roundFirst}
}

// offer replaces the candidates; new ones are tried at once.
func (s *pathState) offer(candidates []netip.AddrPort, now time.Time) {
	fresh := slices.ContainsFunc(candidates, func(c netip.AddrPort) bool { return !slices.Contains(s.candidates, c) })
	s.candidates = slices.Clone(candidates)
	if fresh && s.path != PathDirect {
		s.again(now)
	}
}

// again begins the rounds anew: the network changed, here or there.
func (s *pathState) again(now time.Time) {
	s.round, s.roundGap = now, roundFirst
}

// shake doubts a direct path and looks for a better one.
func (s *pathState) shake(now time.Time) {
	s.learned = nil
	s.again(now)
	if s.path == PathDirect {
		// The peer learns where we are now by what WireGuard sends it.
		s.assert = true
		s.doubt(now)
		s.unanswer, s.pinged = 0, time.Time{}
	}
}

// doubt has a direct path looked at at once, as if nothing had come back for long.
// What the device really sent is not known to be unanswered.
func (s *pathState) doubt(now time.Time) {
	s.sentSince, s.askedAnew = now.Add(-doubtAfter), now
}

// heard notes a ping of the peer's, and asks back where it came from.
func (s *pathState) heard(from netip.AddrPort, now time.Time) pathStep {
	if s.path == PathDirect && from == s.endpoint {
		return pathStep{}
	}
	if i := slices.Index(s.learned, from); i > 0 {
		s.learned = slices.Delete(s.learned, i, i+1)
	}
	if len(s.learned) == 0 || s.learned[0] != from {
		s.learned = slices.Insert(s.learned, 0, from)
		s.learned = s.learned[:min(len(s.learned), maxLearned)]
	}
	if s.path == PathDirect && s.unanswer == 0 {
		return pathStep{} // ours works
	}
	if now.Sub(s.backed) < pingPause/2 {
		return pathStep{}
	}
	s.backed = now
	return pathStep{ping: []netip.AddrPort{from}}
}

// answered notes a pong: packets pass between here and that endpoint, both ways.
func (s *pathState) answered(from netip.AddrPort, now time.Time) (step pathStep) {
	if s.path == PathDirect && from != s.endpoint && s.unanswer == 0 {
		return step
	}
	if s.path != PathDirect || from != s.endpoint {
		step.endpoint = from
		step.changed = s.path != PathDirect
		s.enter(PathDirect, now)
		s.endpoint = from
	}
	if s.assert {
		s.assert, step.endpoint = false, from
	}
	s.confirmed, s.unanswer, s.sentSince = now, 0, time.Time{}
	return step
}

// tick looks at the device. relay says whether the mesh can carry packets to the
// peer, mapped whether a router between here and the endpoint must be kept awake.
func (s *pathState) tick(now time.Time, d deviceView, relay, mapped bool) (step pathStep) {
	s.count(d, now)
	step.anew = relay && s.unanswered(now)
	if s.path == PathDirect {
		s.watch(now, d, mapped, &step)
	}
	if s.path == PathDirect {
		return step
	}
	if s.due(now) {
		step.ping = append(step.ping, s.targets()...)
		step.tell = relay
	}
	carried := d.endpoint.IsValid() && d.endpoint.Addr().IsLoopback()
	switch {
	case s.path == PathNone && relay && now.Sub(s.begun) >= directFirst:
		s.enter(PathRelay, now)
		step.relay, step.changed = true, true
	case s.path == PathNone && !d.handshake.IsZero() && !carried && d.endpoint.IsValid():
		// WireGuard found the way by itself; a node of an older version answers no pings.
		s.enter(PathDirect, now)
		s.endpoint, step.changed = d.endpoint, true
		s.again(now)
	case s.path == PathRelay && !relay:
		s.enter(PathNone, now)
		s.begun, step.changed = now, true
	case s.path == PathRelay && !carried:
		step.relay = true
	}
	return step
}

// due tells whether a round begins, and sets the next.
func (s *pathState) due(now time.Time) bool {
	if now.Before(s.round) {
		return false
	}
	s.round = now.Add(s.roundGap)
	s.roundGap = min(2*s.roundGap, roundMax)
	return true
}

// watch doubts a direct path over which nothing comes back, and gives it up.
func (s *pathState) watch(now time.Time, d deviceView, mapped bool, step *pathStep) {
	if d.endpoint.IsValid() && d.endpoint != s.endpoint {
		if d.endpoint.Addr().IsLoopback() {
			// The peer sent through the mesh. If our way still works a pong will say so;
			// until then the device answers the way it was asked.
			s.assert = true
			if s.sentSince.IsZero() {
				s.doubt(now)
			}
		} else {
			s.endpoint = d.endpoint // the peer moved, and WireGuard noticed first
		}
	}
	if s.confirmed.IsZero() && s.due(now) {
		// What the peer answers tells how a router in between shows this node, which
		// others need to know of it.
		step.ping = append(step.ping, s.endpoint)
	}
	doubted := !s.sentSince.IsZero() && now.Sub(s.sentSince) >= doubtAfter
	refresh := mapped && now.Sub(s.pinged) >= natRefresh
	if (doubted || refresh || s.unanswer > 0) && now.Sub(s.pinged) >= pingPause {
		if s.unanswer >= pingsLost {
			if s.confirmed.IsZero() && doubtless(d, now) {
				s.sentSince, s.unanswer = time.Time{}, 0 // an older node: its silence says nothing
				return
			}
			s.enter(PathNone, now)
			s.begun = now.Add(-directFirst)
			s.again(now)
			step.changed = true
			return
		}
		step.ping = append(step.ping, s.endpoint)
		s.pinged = now
		s.unanswer++
	}
}

// doubtless is what WireGuard itself thinks: it shakes hands anew every two
// minutes while there is traffic, and has no session after three.
func doubtless(d deviceView, now time.Time) bool {
	return now.Sub(d.handshake) < 3*time.Minute
}

func (s *pathState) count(d deviceView, now time.Time) {
	switch {
	case d.received != s.received:
		s.sentSince = time.Time{}
	case d.sent != s.sent && s.sentSince.IsZero():
		s.sentSince = now
	}
	s.received, s.sent = d.received, d.sent
	if d.handshake != s.handshake {
		s.handshake, s.shook = d.handshake, now
	}
}

// unanswered tells that the peer is to be asked to forget: there is a path, no
// session, and what the device sends is not answered.
func (s *pathState) unanswered(now time.Time) bool {
	session := !s.handshake.IsZero() && now.Sub(s.shook) < sessionLife
	if s.path == PathNone || session || s.sentSince.IsZero() || now.Sub(s.sentSince) < doubtAfter || now.Sub(s.askedAnew) < anewPause {
		return false
	}
	s.askedAnew = now
	return true
}

func (s *pathState) enter(p Path, now time.Time) {
	s.path, s.since, s.unanswer, s.assert, s.sentSince = p, now, 0, false, time.Time{}
	s.confirmed, s.pinged, s.endpoint = time.Time{}, time.Time{}, netip.AddrPort{}
}

// targets are whom a round pings: what the peer names, then where it was heard.
func (s *pathState) targets() []netip.AddrPort {
	all := slices.Clone(s.candidates)
	for _, l := range s.learned {
		if !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	return all
}

// settled tells that there is nothing to look for in the next seconds.
func (s *pathState) settled(now time.Time) bool {
	if s.path == PathDirect && (s.unanswer > 0 || !s.sentSince.IsZero()) {
		return false
	}
	if s.path == PathDirect && !s.confirmed.IsZero() {
		return true
	}
	return s.round.Sub(now) > 5*time.Second && now.Sub(s.begun) > directFirst
}
