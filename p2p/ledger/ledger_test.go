package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

func TestFoundersCommitTheGenesisRecordFirst(t *testing.T) {
	for _, tt := range []struct{ founders, masters int }{{1, 1}, {2, 1}, {4, 3}, {6, 5}} {
		s := newSite(t, tt.founders, tt.masters).found()
		c := s.coordinator()
		s.settled(c.Index())
		for _, n := range s.nodes {
			g, ok := ReadGenesis(n.View())
			require.True(t, ok)
			require.Equal(t, s.cert.Genesis, g)
			require.Len(t, n.List(""), 1, "nothing before the genesis record")
			require.Equal(t, n.List("")[0].Index, n.Index())
		}
		for _, n := range s.nodes {
			n.stop()
		}
	}
}

func TestFounderFindsTheMastersBeforeAnybodyGreetsWithTheSite(t *testing.T) {
	s := newSite(t, 3, 1)
	for _, n := range s.nodes {
		n.host.site = ""
	}
	s.found()
	s.settled(s.coordinator().Index())
}

func TestAnyNodeProposesAndReadsItsOwnWrite(t *testing.T) {
	s := newSite(t, 4, 3).found()
	s.coordinator()
	for i, n := range s.nodes {
		if i == 3 {
			break // no master
		}
		index, err := n.Propose(testContext(t), dns("a", "10.0.0.1", n.View().IndexOf(DNSKey("a"))))
		require.NoError(t, err)
		e, ok := n.Get(DNSKey("a"))
		require.True(t, ok)
		require.Equal(t, index, e.Index)
		require.Equal(t, n.id(), e.Author)
		s.settled(index)
	}
}

func TestAnotherMasterDecidesWhenTheCoordinatorIsGone(t *testing.T) {
	s := newSite(t, 4, 3).found()
	old := s.coordinator()
	first, err := old.Propose(testContext(t), dns("a", "10.0.0.1", 0))
	require.NoError(t, err)
	old.stop()

	now := s.coordinator()
	require.NotEqual(t, old.id(), now.id())
	_, ok := now.Get(DNSKey("a"))
	require.True(t, ok, "a coordinator holds everything that was committed")
	second, err := now.Propose(testContext(t), dns("a", "10.0.0.2", first))
	require.NoError(t, err)
	s.settled(second)

	old.restart()
	s.settled(second)
	third, err := old.Propose(testContext(t), dns("b", "10.0.0.2", 0))
	require.NoError(t, err)
	s.settled(third)
}

// A voter that stood in vain, as it does when several start at once, and is cut off
// soon after must notice that it has no coordinator: one that it wrongly knows it
// also holds against all others that stand.
func TestAVoterThatStoodInVainNoticesThatItIsCutOff(t *testing.T) {
	s := newSite(t, 3, 3).found()
	c := s.coordinator()
	for _, n := range s.nodes {
		if n != c {
			n.voting().stand()
		}
	}
	eventually(t, "all know the same coordinator", func() bool {
		known := map[peer.ID]int{}
		for _, n := range s.nodes {
			id, _ := n.Coordinator()
			known[id]++
		}
		return len(known) == 1 && known[""] == 0
	})
	for _, n := range s.nodes {
		s.net.isolate(n.id())
	}
	for _, n := range s.nodes {
		eventually(t, "it knows none", func() bool { return !n.Status().Quorum })
	}
}

// handOver makes a coordinator another node than n. Raft gives a transfer the time of one election, which a slow disk may need alone.
func handOver(t *testing.T, n *testNode) {
	t.Helper()
	eventually(t, "it hands over", func() bool { return n.TransferLeadership(testContext(t)) == nil || !n.IsCoordinator() })
}

func TestLeadershipIsHandedOverOnRequest(t *testing.T) {
	s := newSite(t, 3, 3).found()
	old := s.coordinator()
	handOver(t, old)
	eventually(t, "another coordinator", func() bool {
		return slices.ContainsFunc(s.nodes, func(n *testNode) bool { return n != old && n.IsCoordinator() })
	})
	require.False(t, old.IsCoordinator())
	require.Error(t, old.TransferLeadership(testContext(t)))
}

func TestEverythingDecidedIsReadFromDiskBeforeAnyPeerIsThere(t *testing.T) {
	s := newSite(t, 4, 3).found()
	c := s.coordinator()
	index, err := c.Propose(testContext(t), dns("a", "10.0.0.1", 0))
	require.NoError(t, err)
	s.settled(index)
	for _, n := range s.nodes {
		n.stop()
	}
	for _, n := range s.nodes {
		n.restart()
		require.Equal(t, index, n.Index(), "alone, at once")
		_, ok := n.Get(DNSKey("a"))
		require.True(t, ok)
		require.False(t, n.IsCoordinator())
		n.stop()
	}
	for _, n := range slices.Backward(s.nodes) {
		n.restart()
	}
	again, err := s.coordinator().Propose(testContext(t), dns("b", "10.0.0.1", 0))
	require.NoError(t, err)
	s.settled(again)
}

func TestNodesThatWereAwayCatchUpByLogOrBySnapshot(t *testing.T) {
	s := newSite(t, 4, 3)
	s.timing.SnapshotThreshold = 16
	s.timing.TrailingLogs = 4
	s.timing.SnapshotInterval = 50 * time.Millisecond
	s.found()
	c := s.coordinator()
	follower := s.nodes[3]
	voter := s.nodes[0]
	if voter == c {
		voter = s.nodes[1]
	}
	for _, many := range []int{3, recentLimit + 50} {
		voter.stop()
		follower.stop()
		var index uint64
		for i := range many {
			name := fmt.Sprintf("d%d-%d", many, i)
			var err error
			index, err = c.Propose(testContext(t), dns(name, "10.0.0.1", 0))
			require.NoError(t, err)
		}
		voter.restart()
		follower.restart()
		s.settled(index)
		require.Equal(t, c.List(""), voter.List(""))
		require.Equal(t, c.List(""), follower.List(""))
	}
}

func TestRepeatedProposalTakesEffectOnce(t *testing.T) {
	s := newSite(t, 3, 3).found()
	c := s.coordinator()
	txn := dns("a", "10.0.0.1", 0)
	txn.ID = NewTxnID()
	first, err := c.Propose(testContext(t), txn)
	require.NoError(t, err)
	again, err := c.Propose(testContext(t), txn)
	require.NoError(t, err)
	require.Equal(t, first, again)

	s.settled(first)
	for _, n := range s.nodes {
		if n == c {
			handOver(t, n)
		}
	}
	eventually(t, "another coordinator", func() bool {
		return slices.ContainsFunc(s.nodes, func(n *testNode) bool { return n != c && n.IsCoordinator() })
	})
	again, err = c.Propose(testContext(t), txn)
	require.NoError(t, err)
	require.Equal(t, first, again, "another coordinator remembers it too")
}

func TestConflictNamesTheKeyAndTheCopyHoldsWhatWasInTheWay(t *testing.T) {
	s := newSite(t, 3, 3).found()
	c := s.coordinator()
	index, err := c.Propose(testContext(t), dns("a", "10.0.0.1", 0))
	require.NoError(t, err)
	for _, n := range s.nodes {
		_, err := n.Propose(testContext(t), dns("a", "10.0.0.2", 0))
		require.ErrorIs(t, err, ErrConflict)
		var conflict *ConflictError
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, DNSKey("a"), conflict.Key)
		require.Equal(t, index, n.View().IndexOf(DNSKey("a")))
	}
}

func TestWithoutMajorityNothingIsDecidedAndEverythingIsReadable(t *testing.T) {
	s := newSite(t, 3, 3)
	s.timing.ProposeGiveUp = time.Second
	s.found()
	c := s.coordinator()
	index, err := c.Propose(testContext(t), dns("a", "10.0.0.1", 0))
	require.NoError(t, err)
	s.net.isolate(c.id())
	eventually(t, "the old coordinator steps down", func() bool { return !c.IsCoordinator() && !c.Status().Quorum })
	txn := dns("b", "10.0.0.1", 0)
	txn.ID = NewTxnID()
	_, err = c.Propose(testContext(t), txn)
	require.ErrorIs(t, err, ErrNoQuorum)
	require.NotEmpty(t, c.Status().Waiting())
	require.Equal(t, index, c.View().IndexOf(DNSKey("a")))

	s.net.heal()
	eventually(t, "a coordinator again", func() bool { return c.Status().Quorum })
	eventually(t, "the same proposal is taken, later", func() bool { _, err := c.Propose(testContext(t), txn); return err == nil })
	eventually(t, "it waits for nothing", func() bool { return len(c.Status().Waiting()) == 0 })
}

// Increments through compare-and-set by every node, while links are cut at
// random: the end value is what was acknowledged, plus at most what nobody could
// say anything about.
func TestAcknowledgedDecisionsSurviveAndNoneHappensTwice(t *testing.T) {
	s := newSite(t, 5, 3)
	s.timing.ProposeGiveUp = 3 * time.Second
	s.found()
	s.coordinator()
	type tally struct{ acknowledged, unknown int }
	tallies := make([]tally, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	var work sync.WaitGroup
	for i, n := range s.nodes[:3] {
		work.Go(func() {
			for ctx.Err() == nil {
				r, _, err := Read[DNS](n.View(), DNSKey("count"))
				if err != nil {
					t.Error(err)
					return
				}
				var v int
				if len(r.Value.A) > 0 {
					v = countOf(t, r.Value)
				}
				_, err = n.Propose(ctx, dns("count", netip.AddrFrom4([4]byte{10, 0, byte((v + 1) >> 8), byte(v + 1)}).String(), r.Index))
				switch {
				case err == nil:
					tallies[i].acknowledged++
				case errors.Is(err, ErrConflict):
				default:
					tallies[i].unknown++
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for ctx.Err() == nil {
		a, b := s.nodes[rng.IntN(5)], s.nodes[rng.IntN(5)]
		switch rng.IntN(3) {
		case 0:
			s.net.isolate(a.id())
		case 1:
			if a != b {
				s.net.cut(a.id(), b.id())
			}
		}
		pause(ctx, time.Duration(rng.IntN(300))*time.Millisecond)
		s.net.heal()
		pause(ctx, time.Duration(rng.IntN(300))*time.Millisecond)
	}
	work.Wait()
	s.net.heal()
	end := dns("end", "10.0.0.1", 0)
	end.ID = NewTxnID()
	var index uint64
	eventually(t, "a decision after all that", func() (ok bool) {
		var err error
		index, err = s.coordinator().Propose(testContext(t), end)
		return err == nil
	})
	s.settled(index)
	var sum tally
	for _, w := range tallies {
		sum.acknowledged += w.acknowledged
		sum.unknown += w.unknown
	}
	r, _, err := Read[DNS](s.nodes[0].View(), DNSKey("count"))
	require.NoError(t, err)
	v := countOf(t, r.Value)
	require.GreaterOrEqual(t, v, sum.acknowledged)
	require.LessOrEqual(t, v, sum.acknowledged+sum.unknown)
	t.Logf("value %d, acknowledged %d, unknown %d", v, sum.acknowledged, sum.unknown)
	for _, n := range s.nodes {
		require.Equal(t, s.nodes[0].List(""), n.List(""))
	}
}

func countOf(t *testing.T, d DNS) int {
	a, err := netip.ParseAddr(d.A[0])
	if err != nil {
		t.Error(err)
		return 0
	}
	b := a.As4()
	return int(b[2])<<8 | int(b[3])
}

func TestVoterThatLostItsVotesRefusesToVoteAgain(t *testing.T) { // S5
	s := newSite(t, 3, 3).found()
	s.settled(s.coordinator().Index())
	n := s.nodes[0]
	n.stop()
	require.NoError(t, os.RemoveAll(filepath.Join(n.dir, raftDir)))
	_, err := Open(n.config())
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.Contains(t, corrupt.File, raftDir)

	// Wiped as a whole it has another incarnation, and no vote.
	require.NoError(t, os.RemoveAll(n.dir))
	_, err = Open(n.config())
	require.ErrorIs(t, err, ErrNoLedger)
	_, err = Found(n.config(), s.cert)
	require.ErrorContains(t, err, "was made with storage")
	n.host = s.net.host(n.id(), s.cert.Genesis.Site)
	n.join(Site{ID: s.cert.Genesis.Site})
	s.settled(s.coordinator().Index())
	require.False(t, n.Status().Voter)
}

// Raft answers nobody for what it has committed and not applied when it shuts down, so nobody may be waiting then.
func TestClosingWaitsForWhatRaftHasInHand(t *testing.T) {
	s := newSite(t, 1, 1).found()
	n := s.coordinator()
	v := n.voting()
	const waiting = 16
	answers := make(chan error, waiting)
	n.copy.mu.Lock() // the state machine stands still
	for range waiting {
		before := v.raft.CommitIndex()
		go func() {
			_, err := ask(v, func() raft.ApplyFuture { return v.raft.Apply([]byte("not a command"), time.Second) })
			answers <- err
		}()
		eventually(t, "committed", func() bool { return v.raft.CommitIndex() > before })
	}
	closed := make(chan error, 1)
	go func() { closed <- n.Close() }()
	eventually(t, "nothing more is asked", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.closed
	})
	n.copy.mu.Unlock()
	for range waiting {
		require.NoError(t, <-answers)
	}
	require.NoError(t, <-closed)
}

func TestPowerCutInTheMiddleOfTheBootstrapCostsNothing(t *testing.T) {
	s := newSite(t, 1, 1)
	n := s.nodes[0]
	m, err := foundingMeta(n.config(), s.cert)
	require.NoError(t, err)
	require.NoError(t, writeMeta(n.dir, m))
	dir := filepath.Join(n.dir, raftDir)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	w, err := openLog(dir, raftLogger(n.config().Log))
	require.NoError(t, err)
	require.NoError(t, w.SetUint64([]byte("CurrentTerm"), 1)) // the first write of raft.BootstrapCluster
	require.NoError(t, w.Close())

	n.restart()
	require.Equal(t, n, s.coordinator())
	_, founded := n.Get(KeyGenesis)
	require.True(t, founded)
}

func TestNewcomerWithEmptyCopyFollowsWhoeverIsThere(t *testing.T) {
	s := newSite(t, 2, 1).found()
	c := s.coordinator()
	s.settled(c.Index())
	n := s.add("late")
	for _, o := range s.nodes[:2] {
		if o != c {
			s.net.cut(c.id(), n.id()) // only another follower can be reached
		}
	}
	n.join(c.Site())
	s.settled(c.Index())
	require.Equal(t, c.List(""), n.List(""))
	eventually(t, "it says that it waits", func() bool { return len(n.Status().Waiting()) > 0 })
	s.net.heal()
	index, err := c.Propose(testContext(t), dns("a", "10.0.0.1", 0))
	require.NoError(t, err)
	s.settled(index)
	eventually(t, "the coordinator is known", func() bool { id, ok := n.Coordinator(); return ok && id == c.id() })
	require.Empty(t, n.Status().Waiting())
}

func TestAFollowerLeavesAServerThatGossipLost(t *testing.T) {
	s := newSite(t, 4, 3)
	s.timing.Keepalive = time.Hour // nothing is found out by silence
	s.found()
	s.settled(s.coordinator().Index())
	follower := s.nodes[3]
	server := func() peer.ID {
		follower.follow.mu.Lock()
		defer follower.follow.mu.Unlock()
		return follower.follow.server
	}
	eventually(t, "it follows a master", func() bool { return server() != "" })
	lost := server()
	follower.Lost(lost, time.Now().Add(-time.Hour))
	require.Never(t, func() bool { return server() != lost }, 10*s.timing.FollowRetry, s.timing.FollowRetry, "a stream younger than the death")
	follower.Lost(lost, time.Now())
	eventually(t, "it follows another", func() bool { now := server(); return now != "" && now != lost })
	require.Contains(t, Masters(follower.View()), server())
}

func TestAFollowersDamagedCopyIsFetchedAgain(t *testing.T) {
	s := newSite(t, 3, 1).found()
	c := s.coordinator()
	for i := range 5 {
		index, err := c.Propose(testContext(t), dns(fmt.Sprint("d", i), "192.0.2.1", 0))
		require.NoError(t, err)
		s.settled(index) // a block of its own: damage in the last one would be a write that was cut off
	}
	rand := rand.New(rand.NewPCG(1, 1))
	for _, n := range s.nodes {
		if n == c {
			continue
		}
		n.stop()
		path := filepath.Join(n.dir, copyLogFile)
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		b[frameHead+rand.IntN(len(b)/2)] ^= 0x10
		require.NoError(t, os.WriteFile(path, b, 0o600))
		n.restart()
		damage, was := n.Damage()
		require.True(t, was)
		require.Contains(t, damage.File, copyLogFile)
		kept, err := os.ReadFile(path + ".damaged")
		require.NoError(t, err)
		require.Equal(t, b, kept)
	}
	s.settled(c.Index())
	for _, n := range s.nodes {
		require.Equal(t, c.List(""), n.List(""))
	}

	// A voter's is not set aside: nobody else may have all of it.
	c.stop()
	require.NoError(t, os.WriteFile(filepath.Join(c.dir, copySnapshotFile), []byte("rubbish"), 0o600))
	var damage *CorruptError
	_, err := Open(c.config())
	require.ErrorAs(t, err, &damage)
}

func TestAStrangerThatNamesTheSiteDecidesNothingForAFollower(t *testing.T) {
	s := newSite(t, 2, 1).found()
	c := s.coordinator()
	s.settled(c.Index())
	follower := s.nodes[1]
	before := follower.List("")

	// The stranger has a ledger of the same site ID that is further, and says so
	// to everybody. The master is gone.
	stranger := s.add("stranger")
	stranger.join(c.Site())
	s.settled(c.Index())
	require.NoError(t, stranger.copy.follow([]committed{{prev: stranger.Index(), index: 1000, data: forged(t, stranger)}}))
	require.Equal(t, uint64(1000), stranger.Index())
	c.stop()

	for range 3 {
		require.NotContains(t, follower.following(), stranger.id())
		changed := follower.Changed()
		select {
		case <-changed:
		case <-time.After(5 * s.timing.FollowRetry):
		}
	}
	require.Equal(t, before, follower.List(""))
	require.NotContains(t, Masters(follower.View()), stranger.id())
}

// forged is a decision that nobody made: the node is a master.
func forged(t *testing.T, n *testNode) []byte {
	t.Helper()
	v, err := EncodeRecord(Role{Role: RoleMaster})
	require.NoError(t, err)
	data, err := encodeCommand(command{author: n.id(), txn: Txn{ID: NewTxnID()}.Set(RoleKey(n.id()), v)})
	require.NoError(t, err)
	return data
}
