package ledger

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p"
)

var newcomer = EnrolmentRequest{Hostname: "box", Hardware: "abc", Muster: "1.0"}

func TestNewcomerIsLetInThroughAnyMember(t *testing.T) {
	s := newSite(t, 4, 3).found()
	c := s.coordinator()
	s.settled(c.Index())
	for i, via := range s.nodes[:4] {
		n := s.add("new" + string(rune('a'+i)))
		n.host.stranger = true
		site, err := Enrol(testContext(t), n.host, via.id(), n.identity, newcomer)
		require.NoError(t, err)
		require.Equal(t, c.Site(), site)
		r, ok, err := Read[Member](c.View(), MemberKey(n.id()))
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "box", r.Value.Hostname)
		require.Equal(t, c.id(), r.Author)
		n.host.stranger = false
		n.join(site)
	}
	s.settled(c.Index())

	// A founder has no record until it enrols; a renamed node changes its own.
	founder := s.nodes[3]
	require.NoError(t, founder.Enrol(testContext(t), newcomer))
	renamed := newcomer
	renamed.Hostname = "other"
	require.NoError(t, founder.Enrol(testContext(t), renamed))
	at := c.Index()
	require.NoError(t, founder.Enrol(testContext(t), renamed))
	require.Equal(t, at, c.Index(), "asking again decides nothing")
	r, _, err := Read[Member](c.View(), MemberKey(founder.id()))
	require.NoError(t, err)
	require.Equal(t, "other", r.Value.Hostname)
}

func TestAnEnrolmentDoesNotWaitForACoordinatorThatWasLost(t *testing.T) {
	s := newSite(t, 4, 3).found()
	lost := s.coordinator()
	s.settled(lost.Index())
	// It takes the request and never answers, as a machine without power does
	// until its connections time out.
	asked, end := make(chan struct{}, 16), make(chan struct{})
	defer close(end)
	lost.host.Handle(ProtocolEnrol, p2p.AccessAdmitted, func(network.Stream) {
		asked <- struct{}{}
		<-end
	})
	founder := s.nodes[3]
	enrolled := make(chan error, 1)
	go func() { enrolled <- founder.Enrol(testContext(t), newcomer) }()
	<-asked
	handOver(t, lost)
	require.NoError(t, <-enrolled)
}

func TestNewcomerHearsWhyItIsNotLetIn(t *testing.T) {
	s := newSite(t, 1, 1)
	s.nodes[0].tune = func(c *Config) {
		c.Admit = func(_ peer.ID, r EnrolmentRequest) error {
			if r.StaticRole != "" {
				return errors.New("all masters are there")
			}
			return nil
		}
	}
	s.found()
	c := s.coordinator()
	n := s.add("new")
	wants := newcomer
	wants.StaticRole = RoleMaster
	_, err := Enrol(testContext(t), n.host, c.id(), n.identity, wants)
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorContains(t, err, "all masters are there")
	_, err = Enrol(testContext(t), n.host, c.id(), n.identity, newcomer)
	require.ErrorIs(t, err, ErrNoQuorum, "too soon after the last time")
	wants.Hostname = "Not A Name"
	_, err = Enrol(testContext(t), n.host, c.id(), n.identity, wants)
	require.ErrorIs(t, err, ErrRefused)

	// For somebody else, or forged, is refused; what is too long is cut off.
	other := s.add("other")
	signed, err := signEnrolment(n.identity, newcomer)
	require.NoError(t, err)
	b, err := json.Marshal(enrolMessage{Version: 1, Signed: signed})
	require.NoError(t, err)
	require.Contains(t, c.answerEnrol(testContext(t), other.id(), b).Refused, "itself only")
	signed.Signature[0]++
	b, err = json.Marshal(enrolMessage{Version: 1, Signed: signed})
	require.NoError(t, err)
	require.Contains(t, c.answerEnrol(testContext(t), n.id(), b).Refused, "signature")
	require.Contains(t, c.answerEnrol(testContext(t), n.id(), []byte(`{"signed":{"request":{}}}`)).Refused, "newcomer")
	var a enrolAnswer
	require.Error(t, call(testContext(t), other.host, c.id(), ProtocolEnrol, strings.Repeat("x", maxEnrolSize), &a))
	require.Len(t, c.List(""), 1, "nothing was decided")
}

func TestNewcomersDoNotFillTheHandsOfAMember(t *testing.T) {
	e := newEnrolLimit()
	now := time.Unix(0, 0)
	leave, err := e.enter("a", false, now)
	require.NoError(t, err)
	_, err = e.enter("a", false, now.Add(enrolPause/2))
	require.ErrorContains(t, err, "again within")
	leave()
	var leaves []func()
	for _, member := range []peer.ID{"b", "c"} {
		for range maxEnrolsOfPeer {
			leave, err := e.enter(member, true, now)
			require.NoError(t, err)
			leaves = append(leaves, leave)
		}
		_, err = e.enter(member, true, now)
		require.ErrorContains(t, err, "too many")
	}
	_, err = e.enter("d", true, now)
	require.ErrorContains(t, err, "too many")
	leaves[0]()
	_, err = e.enter("a", false, now.Add(enrolPause))
	require.NoError(t, err)
}

func FuzzEnrolMessage(f *testing.F) {
	f.Add([]byte(`{"version":1,"signed":{"request":{"id":"x"},"signature":"AA=="}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m enrolMessage
		if json.Unmarshal(b, &m) != nil {
			return
		}
		_, err := m.Signed.open("not a key")
		require.Error(t, err)
	})
}

// Whom the newcomer asked may not have heard of the rotation, and let it in.
func TestS20ATokenThatWasReplacedEnrolsNobodyThroughAMemberThatIsBehind(t *testing.T) {
	s := newSite(t, 3, 3).found()
	c := s.coordinator()
	s.settled(c.Index())
	var ids []peer.ID
	for _, n := range s.nodes {
		ids = append(ids, n.id())
	}
	sealed, err := Seal([]byte("token"), ids)
	require.NoError(t, err)
	secret, err := sealed.Encode()
	require.NoError(t, err)
	index, err := c.Propose(testContext(t), Txn{}.Set(KeyEnrolment, []byte(`{"epoch":1}`)).Set(SecretKey(SecretNetworkToken), secret))
	require.NoError(t, err)
	s.settled(index)
	for i, via := range s.nodes {
		n := s.add("new" + string(rune('a'+i)))
		n.host.stranger = true
		_, err = Enrol(testContext(t), n.host, via.id(), n.identity, newcomer)
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, "this token was replaced")
		require.NotContains(t, c.View().entries, MemberKey(n.id()))

		again := s.add("again" + string(rune('a'+i)))
		again.host.stranger, again.host.epoch = true, 1
		_, err = Enrol(testContext(t), again.host, via.id(), again.identity, newcomer)
		require.NoError(t, err)
		r, _, err := Read[Member](c.View(), MemberKey(again.id()))
		require.NoError(t, err)
		require.EqualValues(t, 1, r.Value.EnrolmentEpoch)
	}
}
