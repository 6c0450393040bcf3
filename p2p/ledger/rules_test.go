package ledger

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p"
)

// court is a site of a coordinator, another master, and two workers, judged
// without any network.
type court struct {
	t                                *testing.T
	coordinator, master, w1, w2, out *p2p.Identity
	entries                          map[string]Entry
}

func newCourt(t *testing.T) *court {
	c := &court{t: t, entries: map[string]Entry{}}
	for _, p := range []**p2p.Identity{&c.coordinator, &c.master, &c.w1, &c.w2, &c.out} {
		*p, _ = newIdentity(t, "x")
	}
	g := Genesis{Version: 1, Site: "s", Range: "10.1.0.0/16"}
	for _, m := range []*p2p.Identity{c.coordinator, c.master} {
		g.Masters = append(g.Masters, m.ID().String())
	}
	if g.Masters[0] > g.Masters[1] {
		g.Masters[0], g.Masters[1] = g.Masters[1], g.Masters[0]
	}
	g.Founders = g.Masters
	c.put(KeyGenesis, g)
	for _, w := range []*p2p.Identity{c.w1, c.w2} {
		c.put(MemberKey(w.ID()), c.member(w, "host"))
		c.put(RoleKey(w.ID()), Role{Role: RoleWorker})
	}
	return c
}

func (c *court) member(id *p2p.Identity, hostname string) Member {
	signed, err := signEnrolment(id, EnrolmentRequest{Hostname: hostname, Hardware: "h"})
	require.NoError(c.t, err)
	request, err := json.Marshal(signed)
	require.NoError(c.t, err)
	return Member{ID: id.ID().String(), Hostname: hostname, Hardware: "h", Request: request}
}

func (c *court) put(key string, v any) {
	c.entries[key] = Entry{Key: key, Value: c.json(v), Index: uint64(len(c.entries) + 1)}
}

func (c *court) json(v any) []byte {
	if raw, ok := v.(string); ok {
		return []byte(raw)
	}
	b, err := json.Marshal(v)
	require.NoError(c.t, err)
	return b
}

func (c *court) ask(author *p2p.Identity, txn Txn) error {
	s := ruleSet{
		view:        View{index: 100, entries: c.entries},
		coordinator: c.coordinator.ID(),
		checkPolicy: func(p json.RawMessage) error {
			if strings.Contains(string(p), "bad") {
				return errors.New("bad policy")
			}
			return nil
		},
	}
	return s.check(command{author: author.ID(), txn: txn})
}

func (c *court) allowed(author *p2p.Identity, key string, v any) {
	c.t.Helper()
	require.NoError(c.t, c.ask(author, Txn{}.Set(key, c.json(v))))
}

func (c *court) refused(why string, author *p2p.Identity, key string, v any) {
	c.t.Helper()
	err := c.ask(author, Txn{}.Set(key, c.json(v)))
	require.ErrorIs(c.t, err, ErrRefused)
	require.ErrorContains(c.t, err, why)
}

func TestS8WhoMayProposeWhat(t *testing.T) {
	c := newCourt(t)
	hash := strings.Repeat("ab", 32)
	c.put(KeyEpoch, Epoch{N: 1, Init: c.master.ID().String()})
	c.put(NameKey(c.w2.ID()), Name{Name: "taken"})
	toMasters, err := Seal([]byte("token"), []peer.ID{c.coordinator.ID(), c.master.ID()})
	require.NoError(t, err)
	toWorker, err := Seal([]byte("token"), []peer.ID{c.w1.ID()})
	require.NoError(t, err)
	toStranger, err := Seal([]byte("token"), []peer.ID{c.out.ID()})
	require.NoError(t, err)

	// A worker makes nobody a master, itself least of all.
	c.refused("only the coordinator", c.w1, RoleKey(c.w1.ID()), Role{Role: RoleMaster})
	c.refused("only the coordinator", c.master, RoleKey(c.w1.ID()), Role{Role: RoleMaster})
	c.allowed(c.coordinator, RoleKey(c.w1.ID()), Role{Role: RoleMaster})
	c.refused("not a role", c.coordinator, RoleKey(c.w1.ID()), Role{Role: "king"})
	c.refused("not a member", c.coordinator, RoleKey(c.out.ID()), Role{Role: RoleWorker})
	c.refused("not the peer ID", c.coordinator, PrefixRole+"n1", Role{Role: RoleWorker})

	// Founding writes the genesis record, and nobody afterwards; a kind that is
	// reserved or unknown is nobody's.
	c.refused("cannot be proposed", c.coordinator, KeyGenesis, Genesis{})
	c.refused("not a master", c.w1, RevokedKey(c.w2.ID()), Revoked{})
	c.refused("not a kind of record", c.coordinator, "hello", map[string]string{})
	c.refused("not a kind of record", c.coordinator, PrefixRole, Role{})
	c.refused("not a JSON object", c.coordinator, KeyFeature, "7")
	c.refused("not a member", c.out, DNSKey("a"), DNS{A: []string{"10.0.0.1"}})

	// Operators go through masters.
	c.allowed(c.master, KeyPolicy, map[string]int{"n": 1})
	c.refused("bad policy", c.master, KeyPolicy, map[string]int{"bad": 1})
	c.refused("not a master", c.w1, KeyPolicy, map[string]int{"n": 1})
	c.allowed(c.master, DNSKey("www.example"), DNS{A: []string{"10.0.0.1"}, AAAA: []string{"fd00::1"}})
	c.allowed(c.master, DNSKey("*.example"), DNS{A: []string{"10.0.0.1"}})
	c.refused("not a master", c.w1, DNSKey("a"), DNS{A: []string{"10.0.0.1"}})
	c.refused("not a DNS name", c.master, DNSKey("A_b"), DNS{A: []string{"10.0.0.1"}})
	c.refused("not a DNS name", c.master, DNSKey("*"), DNS{A: []string{"10.0.0.1"}})
	c.refused("0 addresses", c.master, DNSKey("a"), DNS{})
	c.refused("not an IPv4", c.master, DNSKey("a"), DNS{A: []string{"fd00::1"}})
	c.refused("not an IPv6", c.master, DNSKey("a"), DNS{AAAA: []string{"::ffff:10.0.0.1"}})
	require.NoError(t, c.ask(c.master, Txn{}.Del(DNSKey("a"))))
	require.ErrorContains(t, c.ask(c.master, Txn{}.Del(KeyPolicy)), "cannot be deleted")

	// A node changes its own record once it is a member, and no other's.
	c.allowed(c.w1, MemberKey(c.w1.ID()), c.member(c.w1, "renamed"))
	c.refused("only the coordinator, or the node itself", c.w1, MemberKey(c.w2.ID()), c.member(c.w2, "renamed"))
	c.refused("not a member", c.out, MemberKey(c.out.ID()), c.member(c.out, "new"))
	c.allowed(c.coordinator, MemberKey(c.out.ID()), c.member(c.out, "new"))
	c.refused("signature", c.coordinator, MemberKey(c.out.ID()), c.member(c.w1, "new"))
	forged := c.member(c.out, "new")
	forged.StaticRole = RoleMaster
	c.refused("something else than its own request", c.coordinator, MemberKey(c.out.ID()), forged)
	require.ErrorIs(t, c.ask(c.w1, Txn{}.Del(MemberKey(c.w1.ID()))), ErrRefused)

	// Only the init node knows its CA hash; once, before the epoch is formed.
	next := Epoch{N: 1, Init: c.master.ID().String(), CAHash: hash}
	c.allowed(c.master, KeyEpoch, next)
	c.refused("only the init node", c.coordinator, KeyEpoch, next)
	c.refused("or the epoch's init node", c.w1, KeyEpoch, next)
	c.refused("hexadecimal", c.master, KeyEpoch, Epoch{N: 1, Init: c.master.ID().String(), CAHash: "x"})
	c.refused("does not follow", c.master, KeyEpoch, Epoch{N: 3, Init: c.master.ID().String()})
	c.refused("only the coordinator may begin", c.master, KeyEpoch, Epoch{N: 2, Init: c.master.ID().String()})
	c.allowed(c.coordinator, KeyEpoch, Epoch{N: 2, Init: c.coordinator.ID().String()})
	c.refused("not a master", c.coordinator, KeyEpoch, Epoch{N: 2, Init: c.w1.ID().String()})
	c.refused("formed, once", c.coordinator, KeyEpoch, Epoch{N: 1, Init: c.master.ID().String(), Formed: true})
	c.put(KeyEpoch, next)
	c.refused("committed already", c.master, KeyEpoch, Epoch{N: 1, Init: c.master.ID().String(), CAHash: strings.Repeat("00", 32)})
	next.Formed = true
	c.allowed(c.coordinator, KeyEpoch, next)
	c.refused("formed", c.master, KeyEpoch, next)
	c.put(KeyEpoch, next)
	c.refused("not superseded", c.coordinator, KeyEpoch, Epoch{N: 2, Init: c.coordinator.ID().String()})

	// Secrets of masters go to masters.
	c.allowed(c.master, SecretKey(SecretServerToken), toMasters)
	c.allowed(c.coordinator, SecretKey(SecretKubeconfig), toMasters)
	c.refused("is for masters", c.coordinator, SecretKey(SecretServerToken), toWorker)
	c.allowed(c.coordinator, SecretKey(SecretAgentToken), toWorker)
	c.refused("not a member", c.coordinator, SecretKey(SecretAgentToken), toStranger)
	c.refused("not a master", c.w1, SecretKey(SecretAgentToken), toWorker)
	c.refused("not a secret", c.coordinator, SecretKey("x"), toMasters)

	// Names are unique, the feature level grows.
	c.allowed(c.coordinator, NameKey(c.w1.ID()), Name{Name: "free"})
	c.refused("belongs to", c.coordinator, NameKey(c.w1.ID()), Name{Name: "taken"})
	c.refused("not a host name", c.coordinator, NameKey(c.w1.ID()), Name{Name: "a.b"})
	c.put(KeyFeature, Feature{Level: 3})
	c.allowed(c.coordinator, KeyFeature, Feature{Level: 4})
	c.refused("only grows", c.coordinator, KeyFeature, Feature{Level: 2})
	c.refused("only the coordinator", c.master, KeyFeature, Feature{Level: 4})
}

func TestS18AddressesComeFromTheCounterAndStay(t *testing.T) {
	c := newCourt(t)
	give := func(n uint64, pairs ...any) error {
		txn := Txn{}.Set(KeyCounter, c.json(Counter{Next: n}))
		for i := 0; i < len(pairs); i += 2 {
			txn = txn.Set(AddressKey(pairs[i].(*p2p.Identity).ID()), c.json(Address{Addr: pairs[i+1].(string)}))
		}
		return c.ask(c.coordinator, txn)
	}
	require.NoError(t, give(3, c.w1, "10.1.0.1", c.w2, "10.1.0.2"))
	require.ErrorContains(t, give(3, c.w1, "10.1.0.1", c.w2, "10.1.0.1"), "given twice")
	require.ErrorContains(t, give(2, c.w1, "10.1.0.2"), "takes numbers")
	require.ErrorContains(t, give(2, c.w1, "10.2.0.1"), "not in")
	require.ErrorContains(t, give(2, c.w1, "10.1.0.0"), "own")
	require.ErrorContains(t, give(1<<20, c.w1, "10.1.255.255"), "broadcast")
	require.ErrorContains(t, give(2, c.w1, "010.1.0.1"), "address")
	require.ErrorContains(t, give(2, c.out, "10.1.0.1"), "not a member")
	c.refused("takes numbers", c.coordinator, AddressKey(c.w1.ID()), Address{Addr: "10.1.0.1"})

	c.put(KeyCounter, Counter{Next: 3})
	c.put(AddressKey(c.w1.ID()), Address{Addr: "10.1.0.1"})
	require.ErrorContains(t, give(4, c.w2, "10.1.0.1"), "takes numbers", "never reused")
	require.ErrorContains(t, give(2), "cannot go back")
	c.allowed(c.coordinator, AddressKey(c.w1.ID()), Address{Addr: "10.1.0.1"})
	require.ErrorContains(t, give(4, c.w1, "10.1.0.3"), "keeps the address")
	require.ErrorContains(t, c.ask(c.coordinator, Txn{}.Del(AddressKey(c.w1.ID()))), "cannot be deleted")

	a, ok := NthAddress("10.1.0.0/16", 258)
	require.True(t, ok)
	require.Equal(t, "10.1.1.2", a.String())
	for _, n := range []uint64{0, 65535, 65536, 1 << 40} {
		_, ok := NthAddress("10.1.0.0/16", n)
		require.False(t, ok, n)
	}
}

func TestUnknownFieldsSurviveAnOlderReader(t *testing.T) {
	e := Entry{Key: KeyEpoch, Value: []byte(`{"version":2,"n":1,"init":"x","ca_hash":"y","shiny":{"a":1}}`), Index: 7}
	r, err := Decode[Epoch](e)
	require.NoError(t, err)
	r.Value.Formed = true
	r.Value.CAHash = ""
	b, err := r.Encode()
	require.NoError(t, err)
	require.JSONEq(t, `{"version":2,"n":1,"init":"x","formed":true,"shiny":{"a":1}}`, string(b))

	b, err = EncodeRecord(Feature{Level: 1})
	require.NoError(t, err)
	require.JSONEq(t, `{"version":1,"level":1}`, string(b))
	_, err = Decode[Feature](Entry{Key: KeyFeature, Value: []byte("[]")})
	require.ErrorContains(t, err, KeyFeature)
}

func TestMastersAreByRoleWhereThereIsOneElseByGenesis(t *testing.T) {
	c := newCourt(t)
	c.put(RoleKey(c.master.ID()), Role{Role: RoleWorker}) // replaced
	c.put(RoleKey(c.w1.ID()), Role{Role: RoleHA})
	require.ElementsMatch(t, []peer.ID{c.coordinator.ID(), c.w1.ID()}, Masters(View{entries: c.entries}))
}

func TestS20ANodeIsRevokedTogetherWithTheTokenThatItKnows(t *testing.T) {
	c := newCourt(t)
	c.put(NameKey(c.w1.ID()), Name{Name: "w1"})
	rest, err := Seal([]byte("token"), []peer.ID{c.coordinator.ID(), c.master.ID(), c.w2.ID()})
	require.NoError(t, err)
	withRevoked, err := Seal([]byte("token"), []peer.ID{c.coordinator.ID(), c.w1.ID()})
	require.NoError(t, err)
	rotation := Txn{}.Set(KeyEnrolment, c.json(Enrolment{Epoch: 1})).Set(SecretKey(SecretNetworkToken), c.json(rest))
	record := c.json(Revoked{Hostname: "w1", Reason: "stolen"})
	gone := RevokedKey(c.w1.ID())

	// The token alone, by masters, one epoch after the other.
	require.NoError(t, c.ask(c.master, rotation))
	require.ErrorContains(t, c.ask(c.w1, rotation), "only masters")
	c.refused("without its token", c.master, KeyEnrolment, Enrolment{Epoch: 1})
	c.refused("does not follow", c.master, KeyEnrolment, Enrolment{Epoch: 2})
	require.ErrorContains(t, c.ask(c.master, Txn{}.Del(KeyEnrolment)), "cannot be deleted")

	whole := rotation.Set(gone, record).Del(MemberKey(c.w1.ID())).Del(RoleKey(c.w1.ID())).Del(NameKey(c.w1.ID()))
	require.NoError(t, c.ask(c.master, whole))
	require.ErrorContains(t, c.ask(c.w2, whole), "only masters")
	require.ErrorContains(t, c.ask(c.out, whole), "not a member")
	require.ErrorContains(t, c.ask(c.master, Txn{}.Set(gone, record)), "together with the token")
	require.ErrorContains(t, c.ask(c.master, rotation.Del(MemberKey(c.w1.ID()))), "only the coordinator", "nobody but a revoked node goes so")
	require.ErrorContains(t, c.ask(c.master, rotation.Set(RevokedKey(c.out.ID()), record)), "not a member")
	require.ErrorContains(t, c.ask(c.master, Txn{}.Set(RevokedKey(c.master.ID()), record)), "does not revoke itself")
	require.ErrorContains(t, c.ask(c.master, rotation.Set(gone, c.json(Revoked{Reason: "a\nb"}))), "one line")
	sealedToIt := Txn{}.Set(KeyEnrolment, c.json(Enrolment{Epoch: 1})).Set(SecretKey(SecretNetworkToken), c.json(withRevoked)).Set(gone, record)
	require.ErrorContains(t, c.ask(c.master, sealedToIt), "not a member", "it is not told the new one")

	// Once and for good: founder or not, it is neither member nor master.
	c.put(gone, Revoked{})
	require.ErrorContains(t, c.ask(c.master, rotation.Set(gone, record)), "revoked already")
	c.refused("revoked already", c.master, gone, Revoked{Cleared: true})
	c.refused("revoked already", c.coordinator, gone, Revoked{Cleared: true, Reason: "another"})
	c.allowed(c.coordinator, gone, Revoked{Cleared: true})
	require.ErrorContains(t, c.ask(c.master, Txn{}.Del(gone)), "cannot be deleted")
	require.ErrorContains(t, c.ask(c.w1, Txn{}.Set(MemberKey(c.w1.ID()), c.json(c.member(c.w1, "x")))), "not a member")
	c.refused("was revoked", c.coordinator, MemberKey(c.w1.ID()), c.member(c.w1, "x"))
	c.put(RevokedKey(c.master.ID()), Revoked{})
	view := View{entries: c.entries}
	require.Equal(t, []peer.ID{c.coordinator.ID()}, Masters(view))
	require.False(t, IsMember(view, c.master.ID()), "though it founded the site")
	require.ErrorContains(t, c.ask(c.w2, rotation.Set(RevokedKey(c.coordinator.ID()), record)), "only masters")
}
