package ledger

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	libp2pcrypto "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

var simTicks = foundingTicks{Retry: 2, Propose: 4, Stagger: 6, Abort: 12, Stall: 30}

// simIDs are peer IDs that are the same in every run, sorted.
var simIDs = func() []string {
	var ids []string
	for n := byte(1); n <= 6; n++ {
		key, err := libp2pcrypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize)))
		if err != nil {
			panic(err)
		}
		id, err := peer.IDFromPrivateKey(key)
		if err != nil {
			panic(err)
		}
		ids = append(ids, id.String())
	}
	slices.Sort(ids)
	return ids
}()

func simName(id string) string { return string(rune('A' + slices.Index(simIDs, id))) }

func simID(name string) string { return simIDs[name[0]-'A'] }

// simSign stands in for Ed25519: thousands of sites are founded here.
func simSign(id string) func(string, []byte) ([]byte, error) {
	return func(context string, msg []byte) ([]byte, error) {
		return fmt.Appendf(nil, "%s|%s|%x", id, context, msg), nil
	}
}

func simVerify(id peer.ID, context string, msg, sig []byte) error {
	if string(sig) != fmt.Sprintf("%s|%s|%x", id, context, msg) {
		return fmt.Errorf("bad signature")
	}
	return nil
}

// sim is a LAN of nodes that found a site. A node's disk is the JSON that its
// machine asked to persist.
type sim struct {
	t        require.TestingT
	nodes    map[string]*machine // the running ones
	disks    map[string][]byte
	views    map[string][]string // node -> founders that it would propose
	masters  int
	flight   []simLetter
	cut      func(from, to string) bool
	attempts int
	log      io.Writer

	// What ever became true, to be checked against what must stay true.
	founded map[string]Certificate // site -> certificate
	aborted map[string]bool
	live    map[string]string // founder -> record that it is bound to
}

type simLetter struct {
	from, to string
	raw      []byte
}

func newSim(t require.TestingT, names string) *sim {
	s := &sim{
		t: t, nodes: map[string]*machine{}, disks: map[string][]byte{}, views: map[string][]string{}, masters: 3,
		cut: func(string, string) bool { return false }, log: io.Discard,
		founded: map[string]Certificate{}, aborted: map[string]bool{}, live: map[string]string{},
	}
	for _, n := range names {
		s.start(string(n))
	}
	for _, n := range names {
		s.views[string(n)] = strings.Split(names, "")
	}
	return s
}

func (s *sim) start(name string) {
	var state foundingState
	if raw := s.disks[name]; raw != nil {
		require.NoError(s.t, json.Unmarshal(raw, &state))
	}
	id := simID(name)
	s.nodes[name] = newMachine(machineConfig{
		Self: id, Incarnation: fmt.Sprintf("%016x", name[0]), Sign: simSign(id), Verify: simVerify, Ticks: simTicks,
	}, state)
}

func (s *sim) kill(name string) { delete(s.nodes, name) }

func (s *sim) alive(name string) (ids []string) {
	for other := range s.nodes {
		if !s.cut(name, other) {
			ids = append(ids, simID(other))
		}
	}
	return ids
}

func (s *sim) offer(name string) *Genesis {
	var founders []string
	for _, v := range s.views[name] {
		if s.nodes[v] == nil || s.cut(name, v) {
			return nil // too few are seen
		}
		founders = append(founders, simID(v))
	}
	if len(founders) < 2 {
		return nil
	}
	slices.Sort(founders)
	s.attempts++
	n := min(s.masters, (len(founders)-1)|1)
	return &Genesis{
		Version: 1, Site: fmt.Sprintf("%016x", s.attempts), Founders: founders, Masters: founders[:n],
		Range: "10.1.0.0/16", Proposer: simID(name),
	}
}

func (s *sim) tick(name string) {
	if m := s.nodes[name]; m != nil {
		m.Tick(s.alive(name), s.offer(name))
		s.carryOut(name, -1)
	}
}

// carryOut persists and sends; a node that loses power after n of its messages
// (0: after the disk write) is gone.
func (s *sim) carryOut(name string, powerFor int) {
	m := s.nodes[name]
	out := m.Output()
	require.NoError(s.t, out.Err)
	if out.State != nil {
		raw, err := json.Marshal(out.State)
		require.NoError(s.t, err)
		s.disks[name] = raw
		s.judge(name, *out.State)
	}
	for i, l := range out.Send {
		if i == powerFor {
			break
		}
		require.NoError(s.t, l.Message.check())
		var wire bytes.Buffer
		require.NoError(s.t, writeGenesisMessage(&wire, l.Message))
		s.flight = append(s.flight, simLetter{name, simName(l.Peer), wire.Bytes()})
	}
	if powerFor >= 0 {
		fmt.Fprintf(s.log, "%s loses power\n", name)
		s.kill(name)
	}
}

// deliver hands over the i-th letter; keep leaves a copy in flight.
func (s *sim) deliver(i int, keep bool, powerFor int) {
	l := s.flight[i]
	if !keep {
		s.flight = slices.Delete(s.flight, i, i+1)
	}
	m := s.nodes[l.to]
	if m == nil || s.cut(l.from, l.to) {
		return
	}
	msg, err := readGenesisMessage(bytes.NewReader(l.raw))
	require.NoError(s.t, err)
	fmt.Fprintf(s.log, "%s -> %s %s\n", l.from, l.to, describe(msg))
	m.Step(simID(l.from), msg)
	s.carryOut(l.to, powerFor)
}

// calm runs until nothing changes any more, with all links as they are.
func (s *sim) calm(rounds int) {
	for range rounds {
		for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
			s.tick(name)
		}
		for len(s.flight) > 0 {
			s.deliver(0, false, -1)
		}
	}
}

// judge checks what must hold in every history, whenever a disk changes.
func (s *sim) judge(name string, state foundingState) {
	id := simID(name)
	for _, a := range state.Proofs {
		require.NoError(s.t, a.verify(simVerify))
		require.NotContains(s.t, s.founded, a.Genesis.Site, "a founded site was aborted")
		s.aborted[a.Genesis.Site] = true
	}
	bound := ""
	for _, a := range state.Attempts {
		if a.Promise != nil {
			require.Empty(s.t, bound, "two live promises at once")
			bound = a.Genesis.Site
		}
	}
	if c := state.Founded; c != nil {
		require.NoError(s.t, c.verify(simVerify))
		require.Empty(s.t, bound, "a member has a live promise")
		require.NotContains(s.t, s.aborted, c.Genesis.Site, "an aborted site was founded")
		for site, other := range s.founded {
			if site == c.Genesis.Site {
				require.Equal(s.t, other.Genesis.Digest(), c.Genesis.Digest())
				require.Equal(s.t, other.Promises, c.Promises, "everybody derives the same configuration")
				continue
			}
			for _, f := range c.Genesis.Founders {
				require.False(s.t, other.Genesis.Founder(f), "%s founds two sites", simName(f))
			}
		}
		s.founded[c.Genesis.Site] = *c
		bound = c.Genesis.Site
	}
	if before := s.live[id]; before != "" && before != bound {
		require.True(s.t, slices.Contains(state.Abandoned, before) || s.aborted[before], "%s dropped its promise to %s, which was not aborted", name, before)
	}
	s.live[id] = bound
}

func describe(m genesisMessage) string {
	name := func(id string) string {
		if id == "" {
			return ""
		}
		return " by " + simName(id)
	}
	names := func(ids []string) (out string) {
		for _, id := range ids {
			out += simName(id)
		}
		return out
	}
	site := strings.TrimLeft(m.Site, "0")
	value := func(commit bool) string {
		if commit {
			return "commit"
		}
		return "abort"
	}
	ballot := fmt.Sprintf("ballot %d%s", m.Ballot.Round, name(m.Ballot.By))
	switch m.Kind {
	case kindAsk:
		return fmt.Sprintf("ask: site %s, founders %s, masters %s", site, names(m.Genesis.Founders), names(m.Genesis.Masters))
	case kindRefused:
		reason := m.Reason
		for _, id := range simIDs {
			reason = strings.ReplaceAll(reason, id, simName(id))
		}
		return fmt.Sprintf("refused: site %s: %s", site, reason)
	case kindPrepare, kindOutbid:
		return fmt.Sprintf("%s: site %s, %s", m.Kind, site, ballot)
	case kindPrepared:
		if m.Accepted == nil {
			return fmt.Sprintf("prepared: site %s, %s, no vote yet", site, ballot)
		}
		return fmt.Sprintf("prepared: site %s, %s, voted %s on ballot %d%s", site, ballot, value(m.Accepted.Commit), m.Accepted.Ballot.Round, name(m.Accepted.Ballot.By))
	case kindAccept:
		return fmt.Sprintf("accept: site %s, %s, %s", site, ballot, value(m.Accepted.Commit))
	case kindVoted:
		return fmt.Sprintf("voted: site %s, ballot %d%s, %s", site, m.Vote.Ballot.Round, name(m.Vote.Ballot.By), value(m.Vote.Commit))
	case kindFounded:
		return fmt.Sprintf("founded: site %s, %d promises, %d votes", site, len(m.Certificate.Promises), len(m.Certificate.Votes))
	case kindAborted:
		return fmt.Sprintf("aborted: site %s, %d votes", site, len(m.Abort.Votes))
	}
	return fmt.Sprintf("%s: site %s", m.Kind, site)
}

func (s *sim) requireOneSite(t *testing.T, names string) Certificate {
	t.Helper()
	require.Len(t, s.founded, 1)
	var c Certificate
	for _, c = range s.founded {
	}
	for _, n := range names {
		got, ok := s.nodes[string(n)].Founded()
		require.True(t, ok, "%c does not know of the site: %v", n, s.nodes[string(n)].Waiting(nil))
		require.Equal(t, c.Genesis.Site, got.Genesis.Site)
	}
	return c
}
