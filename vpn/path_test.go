package vpn

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var (
	lanEndpoint = netip.MustParseAddrPort("192.168.1.9:51820")
	wanEndpoint = netip.MustParseAddrPort("198.51.100.7:51820")
	proxyPort   = netip.MustParseAddrPort("127.0.0.1:40000")
)

// pathRun is one peer's path in virtual time, with a device that does as it is told.
type pathRun struct {
	*pathState
	now    time.Time
	device deviceView
	relay  bool
	pings  []netip.AddrPort
	paths  []Path
	told   int
	asked  int // to be made anew
}

func newPathRun(relay bool, candidates ...netip.AddrPort) *pathRun {
	now := time.Unix(1e9, 0)
	r := &pathRun{pathState: newPathState(now), now: now, relay: relay}
	r.offer(candidates, now)
	return r
}

func (r *pathRun) apply(s pathStep) {
	r.pings = append(r.pings, s.ping...)
	if s.relay {
		r.device.endpoint = proxyPort
	}
	if s.endpoint.IsValid() {
		r.device.endpoint = s.endpoint
	}
	if s.changed {
		r.paths = append(r.paths, r.path)
	}
	if s.tell {
		r.told++
	}
	if s.anew {
		r.asked++
	}
}

// pass lets time go by, a second at a time, and answers pings of the endpoints that work.
func (r *pathRun) pass(d time.Duration, works ...netip.AddrPort) {
	for end := r.now.Add(d); r.now.Before(end); r.now = r.now.Add(time.Second) {
		r.pings = nil
		r.apply(r.tick(r.now, r.device, r.relay, false))
		for _, p := range r.pings {
			for _, w := range works {
				if p == w {
					r.apply(r.answered(p, r.now))
				}
			}
		}
	}
}

func TestAPeerThatAnswersIsReachedDirectlyAtOnce(t *testing.T) {
	r := newPathRun(true, lanEndpoint, wanEndpoint)
	r.pass(time.Second, wanEndpoint)
	require.Equal(t, []Path{PathDirect}, r.paths)
	require.Equal(t, wanEndpoint, r.device.endpoint)
}

func TestAPeerThatDoesNotAnswerIsReachedThroughTheMeshAfterAMoment(t *testing.T) {
	r := newPathRun(true, lanEndpoint)
	r.pass(directFirst)
	require.Equal(t, PathNone, r.path)
	r.pass(2 * time.Second)
	require.Equal(t, []Path{PathRelay}, r.paths)
	require.Equal(t, proxyPort, r.device.endpoint)
	require.Positive(t, r.told, "the peer pings at the same time")

	// Later the routers let packets through.
	r.pass(10 * time.Minute)
	require.Equal(t, PathRelay, r.path)
	r.pass(roundMax+time.Second, lanEndpoint)
	require.Equal(t, []Path{PathRelay, PathDirect}, r.paths)
	require.Equal(t, lanEndpoint, r.device.endpoint)
}

func TestWithoutARelayThereIsNoPathAndNoPacketGoesAstray(t *testing.T) {
	r := newPathRun(false, lanEndpoint)
	r.pass(time.Hour)
	require.Empty(t, r.paths)
	require.False(t, r.device.endpoint.IsValid())
	r.relay = true
	r.pass(time.Minute)
	require.Equal(t, []Path{PathRelay}, r.paths)
	r.relay = false
	r.pass(time.Minute)
	require.Equal(t, PathNone, r.path)
}

func TestADirectPathThatFallsSilentIsReplacedInSeconds(t *testing.T) {
	r := newPathRun(true, wanEndpoint)
	r.pass(time.Second, wanEndpoint)
	r.pass(time.Hour) // idle, and nobody asks
	require.Equal(t, PathDirect, r.path)
	lost := r.now
	for r.path == PathDirect && r.now.Sub(lost) < time.Minute {
		r.device.sent++ // a connection that retransmits
		r.pass(time.Second)
	}
	r.pass(time.Second)
	require.Equal(t, []Path{PathDirect, PathRelay}, r.paths)
	require.Less(t, r.now.Sub(lost), doubtAfter+(pingsLost+3)*pingPause)
	require.Equal(t, proxyPort, r.device.endpoint)
}

func TestTrafficThatIsAnsweredIsNotDoubted(t *testing.T) {
	r := newPathRun(true, wanEndpoint)
	r.pass(time.Second, wanEndpoint)
	for range 600 {
		r.device.sent++
		r.device.received++
		r.pass(time.Second)
		require.Empty(t, r.pings)
	}
	require.Equal(t, []Path{PathDirect}, r.paths)
}

func TestAPeerThatSendsThroughTheMeshIsToldThatTheDirectPathWorks(t *testing.T) {
	r := newPathRun(true, wanEndpoint)
	r.pass(time.Second, wanEndpoint)
	r.device.endpoint = proxyPort // WireGuard answers the way it was asked
	r.pass(3*time.Second, wanEndpoint)
	require.Equal(t, wanEndpoint, r.device.endpoint)
	require.Equal(t, []Path{PathDirect}, r.paths, "no change to report")

	r.device.endpoint = proxyPort
	r.pass(10 * time.Second) // and now it does not
	require.Equal(t, PathRelay, r.path)
}

func TestAPeerThatMovedIsFollowedAsWireGuardDoes(t *testing.T) {
	r := newPathRun(true, wanEndpoint)
	r.pass(time.Second, wanEndpoint)
	r.device.endpoint = lanEndpoint
	r.pass(2 * time.Second)
	require.Equal(t, lanEndpoint, r.endpoint)
	require.Equal(t, PathDirect, r.path)
}

func TestAChangeOfNetworkMakesThePeerLearnWhereWeAre(t *testing.T) {
	r := newPathRun(true, wanEndpoint)
	r.pass(time.Second, wanEndpoint)
	r.shake(r.now)
	r.pings = nil
	r.apply(r.tick(r.now, r.device, true, false))
	require.Contains(t, r.pings, wanEndpoint)
	step := r.answered(wanEndpoint, r.now)
	require.Equal(t, wanEndpoint, step.endpoint, "set again, which sends a packet")
}

func TestWhereAPingCameFromIsAskedBackAndNotBelieved(t *testing.T) {
	r := newPathRun(true)
	step := r.heard(wanEndpoint, r.now)
	require.Equal(t, []netip.AddrPort{wanEndpoint}, step.ping)
	require.Equal(t, PathNone, r.path)
	require.Empty(t, r.heard(lanEndpoint, r.now).ping, "not more often than that")
	for i := range 100 {
		r.heard(netip.AddrPortFrom(wanEndpoint.Addr(), uint16(i+1)), r.now)
	}
	require.Len(t, r.learned, maxLearned)
}

func TestANodeOfAnOlderVersionIsReachedWithoutPongs(t *testing.T) {
	r := newPathRun(false, lanEndpoint)
	r.device = deviceView{endpoint: lanEndpoint, handshake: r.now}
	r.pass(time.Second)
	require.Equal(t, []Path{PathDirect}, r.paths)
	for range 30 { // one-way traffic
		r.device.sent++
		r.device.handshake = r.now
		r.pass(time.Second)
	}
	require.Equal(t, []Path{PathDirect}, r.paths)
}

// Whatever happens, the device is never sent to an endpoint that was not proved, and pings stay few.
// Only a pong says how a router in between shows this node; without it no third node
// learns where to find this one.
func TestAPathThatWireGuardFoundIsAskedForAPong(t *testing.T) {
	r := newPathRun(true, wanEndpoint)
	r.device.endpoint, r.device.handshake = wanEndpoint, r.now
	r.pass(10 * time.Second)
	require.Equal(t, PathDirect, r.path)
	asked := 0
	for range 120 {
		r.pass(time.Second)
		asked += len(r.pings)
	}
	require.Positive(t, asked)
	require.Less(t, asked, 8, "an older node is not asked over and over")
	r.pass(3*time.Minute, wanEndpoint)
	require.False(t, r.confirmed.IsZero())
	require.True(t, r.settled(r.now))
	r.pass(time.Minute, wanEndpoint)
	require.Empty(t, r.pings)
}

func TestOnlyProvedEndpointsAreUsed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newPathRun(rapid.Bool().Draw(t, "relay"), lanEndpoint, wanEndpoint)
		proved := map[netip.AddrPort]bool{proxyPort: true}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			r.pings = nil
			switch rapid.IntRange(0, 6).Draw(t, "event") {
			case 0:
				at := rapid.SampledFrom([]netip.AddrPort{lanEndpoint, wanEndpoint}).Draw(t, "at")
				proved[at] = true
				r.apply(r.answered(at, r.now))
			case 1:
				r.apply(r.heard(netip.AddrPortFrom(wanEndpoint.Addr(), uint16(rapid.IntRange(1, 9).Draw(t, "port"))), r.now))
			case 2:
				r.shake(r.now)
			case 3:
				r.relay = !r.relay
			case 4:
				r.device.sent++
			case 5:
				if r.device.endpoint.IsValid() {
					r.device.received++
				}
			default:
				r.now = r.now.Add(time.Duration(rapid.IntRange(1, 100).Draw(t, "seconds")) * time.Second)
			}
			r.apply(r.tick(r.now, r.device, r.relay, rapid.Bool().Draw(t, "mapped")))
			require.True(t, !r.device.endpoint.IsValid() || proved[r.device.endpoint], "%s", r.device.endpoint)
			require.LessOrEqual(t, len(r.pings), 2+2+maxLearned+1)
			require.Equal(t, r.path == PathDirect, r.endpoint.IsValid())
		}
	})
}

func TestAPeerThatTakesNoHandshakeIsAskedToForgetNowAndThen(t *testing.T) {
	for name, works := range map[string][]netip.AddrPort{"direct": {lanEndpoint}, "relay": nil} {
		t.Run(name, func(t *testing.T) {
			r := newPathRun(true, lanEndpoint)
			for range 40 { // every attempt of WireGuard's to shake hands counts
				r.device.sent += 148
				r.pass(5*time.Second, works...)
			}
			require.InDelta(t, 20, r.asked, 2)
			r.asked = 0
			r.device.handshake = r.now
			for range 30 { // silence after a handshake is not a matter of handshakes
				r.device.sent++
				r.pass(5*time.Second, works...)
			}
			require.Zero(t, r.asked)
			for range 30 { // the session is over
				r.device.sent += 148
				r.pass(5*time.Second, works...)
			}
			require.Positive(t, r.asked)
		})
	}
}

func TestNobodyIsAskedToForgetWhoIsSilentOrIsNotSpokenTo(t *testing.T) {
	r := newPathRun(true, lanEndpoint)
	r.pass(time.Hour, lanEndpoint)
	require.Zero(t, r.asked)
	r.shake(r.now) // the network changed, and nothing was said for an hour
	r.pass(time.Minute, lanEndpoint)
	require.Equal(t, PathDirect, r.path)
	require.Zero(t, r.asked)

	r = newPathRun(false, lanEndpoint)
	for range 100 {
		r.device.sent += 148
		r.pass(5 * time.Second)
	}
	require.Zero(t, r.asked, "the mesh does not reach it")
}
