package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/muster-edge/muster/p2p"
)

// testSite is a site in one process: real files, real Raft, a network in memory.
type testSite struct {
	t      testing.TB
	net    *memNet
	cert   Certificate
	nodes  []*testNode
	timing Timing
}

type testNode struct {
	site     *testSite
	dir      string
	identity *p2p.Identity
	host     *memHost
	*Ledger
	tune func(*Config)
}

func newIdentity(t testing.TB, name string) (*p2p.Identity, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	id, _, err := p2p.OpenIdentity(dir, p2p.Hardware{ID: "env:" + name})
	require.NoError(t, err)
	return id, filepath.Join(dir, "ledger")
}

// newSite makes founders, the first masters of them masters, with a
// certificate; nothing runs yet.
func newSite(t testing.TB, founders, masters int) *testSite {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	s := &testSite{t: t, net: newMemNet(), timing: LabTiming()}
	for i := range founders {
		s.add(fmt.Sprintf("n%d", i+1))
	}
	slices.SortFunc(s.nodes, func(a, b *testNode) int {
		if a.identity.ID().String() < b.identity.ID().String() {
			return -1
		}
		return 1
	})
	s.cert = certify(t, s.nodes, masters)
	for _, n := range s.nodes {
		n.host.site = s.cert.Genesis.Site
	}
	t.Cleanup(func() {
		for _, n := range s.nodes {
			n.stop()
		}
	})
	return s
}

func (s *testSite) add(name string) *testNode {
	id, dir := newIdentity(s.t, name)
	n := &testNode{site: s, dir: dir, identity: id, host: s.net.host(id.ID(), s.cert.Genesis.Site)}
	s.nodes = append(s.nodes, n)
	return n
}

func certify(t testing.TB, nodes []*testNode, masters int) Certificate {
	t.Helper()
	g := Genesis{Version: GenesisVersion, Site: NewSiteID(), Policy: json.RawMessage(`{}`), Range: "10.1.0.0/16"}
	for _, n := range nodes {
		g.Founders = append(g.Founders, n.identity.ID().String())
	}
	g.Masters = g.Founders[:masters:masters]
	g.Proposer = g.Founders[0]
	c := Certificate{Genesis: g}
	for i, n := range nodes {
		incarnation, err := Incarnation(n.dir)
		require.NoError(t, err)
		p := Promise{Site: g.Site, Record: g.Digest(), Founder: g.Founders[i], Incarnation: incarnation}
		p.Signature, err = n.identity.Sign(promiseContext, p.message())
		require.NoError(t, err)
		c.Promises = append(c.Promises, p)
		if i < masters {
			v := Vote{Site: g.Site, Record: g.Digest(), Master: g.Founders[i], Commit: true}
			v.Signature, err = n.identity.Sign(voteContext, v.message())
			require.NoError(t, err)
			c.Votes = append(c.Votes, v)
		}
	}
	require.NoError(t, c.Verify())
	return c
}

// found starts every founder.
func (s *testSite) found() *testSite {
	s.t.Helper()
	for _, n := range s.nodes {
		n.found()
	}
	return s
}

func (n *testNode) config() Config {
	level := slog.LevelWarn
	if os.Getenv("LEDGER_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	c := Config{Dir: n.dir, Identity: n.identity, Host: n.host, Log: log.With("node", short(n.identity.ID())), Timing: n.site.timing}
	if n.tune != nil {
		n.tune(&c)
	}
	return c
}

func (n *testNode) id() peer.ID { return n.identity.ID() }

func (n *testNode) found() {
	n.site.t.Helper()
	l, err := Found(n.config(), n.site.cert)
	require.NoError(n.site.t, err)
	n.Ledger = l
}

func (n *testNode) join(site Site) {
	n.site.t.Helper()
	n.site.net.mu.Lock() // others look for whom to follow
	n.host.site = site.ID
	n.site.net.mu.Unlock()
	l, err := Join(n.config(), site)
	require.NoError(n.site.t, err)
	n.Ledger = l
}

// stop takes the node off the net and closes its ledger.
func (n *testNode) stop() {
	n.site.t.Helper()
	if n.Ledger == nil {
		return
	}
	n.host.down()
	require.NoError(n.site.t, n.Ledger.Close())
	n.Ledger = nil
}

// restart opens the ledger from disk on a new host.
func (n *testNode) restart() {
	n.site.t.Helper()
	n.host = n.site.net.host(n.id(), n.site.cert.Genesis.Site)
	l, err := Open(n.config())
	require.NoError(n.site.t, err)
	n.Ledger = l
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for what must come true, woken by the clock only: a test that
// fails shows it after a generous while.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, 30*time.Second, 5*time.Millisecond, what)
}

// coordinator waits until one running node decides.
func (s *testSite) coordinator() *testNode {
	s.t.Helper()
	var c *testNode
	eventually(s.t, "a coordinator", func() bool {
		for _, n := range s.nodes {
			if n.Ledger != nil && n.IsCoordinator() {
				c = n
				return true
			}
		}
		return false
	})
	return c
}

// settled waits until every running node holds the same index.
func (s *testSite) settled(index uint64) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("index %d everywhere", index), func() bool {
		for _, n := range s.nodes {
			if n.Ledger != nil && n.Index() < index {
				return false
			}
		}
		return true
	})
}

// dns is a transaction that any master may propose.
func dns(name, addr string, index uint64) Txn {
	v, err := EncodeRecord(DNS{A: []string{addr}})
	if err != nil {
		panic(err)
	}
	return Txn{}.If(DNSKey(name), index).Set(DNSKey(name), v)
}
