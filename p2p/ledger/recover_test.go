package ledger

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p"
)

// recover takes the node's ledger through a recovery of c.
func (n *testNode) recover(c Copy, r Recovery, changes ...Op) Site {
	n.site.t.Helper()
	n.stop()
	site, err := Recover(n.config(), c, 0, r, changes)
	require.NoError(n.site.t, err)
	n.restart()
	return site
}

func (n *testNode) copyNow() Copy {
	n.site.t.Helper()
	c, err := n.Copy()
	require.NoError(n.site.t, err)
	return c
}

// worker is a change that takes a node's master role.
func worker(t *testing.T, n *testNode) Op {
	t.Helper()
	v, err := EncodeRecord(Role{Role: RoleWorker, Reason: "lost"})
	require.NoError(t, err)
	return Op{Key: RoleKey(n.id()), Value: v}
}

// lostMajority is a site of three masters and a worker with a decision, of which
// two masters lose power for good. The survivor is the first, the worker last.
func lostMajority(t *testing.T) (s *testSite, survivor, worker *testNode, lost []*testNode) {
	s = newSite(t, 4, 3).found()
	index, err := s.coordinator().Propose(testContext(t), dns("before", "10.0.0.1", 0))
	require.NoError(t, err)
	s.settled(index)
	lost = s.nodes[1:3]
	for _, n := range lost {
		n.stop()
	}
	return s, s.nodes[0], s.nodes[3], lost
}

func TestS7RecoveryGoesOnFromTheSurvivorAndTheLostMastersGiveWay(t *testing.T) {
	s, survivor, follower, lost := lostMajority(t)
	before, changes := survivor.List(""), []Op{worker(t, lost[0]), worker(t, lost[1])}
	next := survivor.recover(survivor.copyNow(), Recovery{Kept: []string{survivor.id().String()}, Lost: []string{lost[0].id().String(), lost[1].id().String()}}, changes...)
	require.Equal(t, uint64(1), GenerationNumber(next.Generation))

	// It decides at once, alone, with all that was decided before.
	require.Equal(t, survivor, s.coordinator())
	index, err := survivor.Propose(testContext(t), dns("after", "10.0.0.2", 0))
	require.NoError(t, err)
	for _, e := range before {
		now, ok := survivor.Get(e.Key)
		require.True(t, ok, e.Key)
		if !slices.ContainsFunc(changes, func(op Op) bool { return op.Key == e.Key }) {
			require.Equal(t, e, now)
		}
	}
	require.Equal(t, []string{survivor.id().String()}, Recoveries(survivor.View())[0].Kept)

	// The lost masters come back together: a quorum of the old generation, until
	// they meet the new one.
	for _, n := range lost {
		n.restart()
	}
	for _, n := range append(lost, follower) {
		if n == follower { // a voter hears of it by greetings, which are the agent's
			eventually(t, "it knows that it was left behind", func() bool { return n.Status().Superseded == next.Generation })
			require.NotEmpty(t, n.Status().Waiting())
		}
		c, err := n.Succession(testContext(t), []peer.ID{survivor.id()}, next.Generation)
		require.NoError(t, err)
		config := n.config()
		n.stop()
		require.NoError(t, Adopt(config, c))
		n.restart()
		require.Equal(t, next, n.Site())
		require.Nil(t, n.voting(), "it votes no more")
	}
	s.settled(index)
	for _, n := range append(lost, follower) {
		require.Equal(t, survivor.List(""), n.List(""))
		// What it voted with is set aside and not deleted.
		if n != follower {
			require.DirExists(t, filepath.Join(n.dir, raftDir))
		}
		_, err := n.Propose(testContext(t), dns("x", "10.0.0.1", 0))
		require.ErrorIs(t, err, ErrRefused, "a worker now")
	}
}

func TestRecoveryWorksFromAFollowersCopy(t *testing.T) { // S3
	s := newSite(t, 3, 1).found()
	index, err := s.coordinator().Propose(testContext(t), dns("before", "10.0.0.1", 0))
	require.NoError(t, err)
	s.settled(index)
	s.nodes[0].stop() // the sole voter, for good
	heir, other := s.nodes[1], s.nodes[2]

	seen := heir.Survey(testContext(t))
	require.Len(t, seen, 2)
	c, err := FetchCopy(testContext(t), heir.host, other.id(), heir.Site())
	require.NoError(t, err)
	require.Equal(t, other.List(""), c.View().List(""))
	v, err := EncodeRecord(Role{Role: RoleMaster})
	require.NoError(t, err)
	next := heir.recover(c, Recovery{}, worker(t, s.nodes[0]), Op{Key: RoleKey(heir.id()), Value: v})
	require.Equal(t, heir, s.coordinator())
	_, err = heir.Propose(testContext(t), dns("after", "10.0.0.1", 0))
	require.NoError(t, err)

	c, err = other.Succession(testContext(t), []peer.ID{heir.id()}, next.Generation)
	require.NoError(t, err)
	config := other.config()
	other.stop()
	require.NoError(t, Adopt(config, c))
	other.restart()
	s.settled(heir.Index())
	require.Equal(t, heir.List(""), other.List(""))
}

func TestS7AfterAPowerCutAtAnyStepOfRecoveryThereIsTheOldGenerationOrTheNew(t *testing.T) {
	cut := errors.New("power cut")
	for _, step := range []string{"copy.snapshot", "raft", "ledger.json"} {
		t.Run(step, func(t *testing.T) {
			s, survivor, _, _ := lostMajority(t)
			before, c := survivor.Site(), survivor.copyNow()
			config := survivor.config()
			survivor.stop()
			config.step = func(name string) error {
				if name == step {
					return cut
				}
				return nil
			}
			_, err := Recover(config, c, 0, Recovery{}, nil)
			require.ErrorIs(t, err, cut)
			survivor.restart()
			if step != "ledger.json" {
				require.Equal(t, before, survivor.Site(), "as it was")
				survivor.recover(survivor.copyNow(), Recovery{})
			}
			require.Equal(t, uint64(1), GenerationNumber(survivor.Site().Generation))
			require.Equal(t, survivor, s.coordinator())
			_, err = survivor.Propose(testContext(t), dns("after", "10.0.0.2", 0))
			require.NoError(t, err)
			folders, err := filepath.Glob(filepath.Join(survivor.dir, generationPrefix+"*"))
			require.NoError(t, err)
			require.Len(t, folders, 1, "nothing is left of what was cut")
		})
	}
}

func TestS7AfterAPowerCutAtAnyStepOfGivingWayANodeNeverVotesAgain(t *testing.T) {
	cut := errors.New("power cut")
	for _, step := range []string{"superseded", "copy.snapshot", "ledger.json"} {
		t.Run(step, func(t *testing.T) {
			s, survivor, follower, lost := lostMajority(t)
			follower.stop()
			next := survivor.recover(survivor.copyNow(), Recovery{}, worker(t, lost[0]), worker(t, lost[1]))
			s.coordinator()
			n := lost[0]
			n.restart()
			c, err := n.Succession(testContext(t), []peer.ID{survivor.id()}, next.Generation)
			require.NoError(t, err)
			config := n.config()
			n.stop()
			config.step = func(name string) error {
				if name == step {
					return cut
				}
				return nil
			}
			require.ErrorIs(t, Adopt(config, c), cut)
			n.restart()
			require.NoError(t, n.Vote(step == "ledger.json"))
			require.Equal(t, step == "ledger.json", n.voting() != nil)
			if step != "ledger.json" {
				require.True(t, n.Status().Yielded)
				require.Equal(t, next.Generation, n.Status().Superseded)
				config := n.config()
				n.stop()
				require.NoError(t, Adopt(config, c))
				n.restart()
			}
			require.Equal(t, next, n.Site())
			require.False(t, n.Status().Yielded)
			s.settled(survivor.Index())
		})
	}
}

func TestTwoRecoveriesOfOneGenerationKeepApart(t *testing.T) {
	s, survivor, _, lost := lostMajority(t)
	one := survivor.recover(survivor.copyNow(), Recovery{})
	other := lost[0]
	other.restart()
	two := other.recover(other.copyNow(), Recovery{})
	require.NotEqual(t, one, two)
	require.False(t, Supersedes(one.Generation, two.Generation))
	require.False(t, Supersedes(two.Generation, one.Generation))
	s.coordinator()
	_, err := survivor.Succession(testContext(t), []peer.ID{other.id()}, two.Generation)
	require.ErrorContains(t, err, "does not follow")
	require.Zero(t, survivor.Status().Superseded)

	// An operator ends it: one more recovery, above both.
	eventually(t, "each decides for itself", func() bool { return survivor.IsCoordinator() && other.IsCoordinator() })
	three := survivor.recover(survivor.copyNow(), Recovery{})
	c, err := other.Succession(testContext(t), []peer.ID{survivor.id()}, three.Generation)
	require.NoError(t, err)
	require.Len(t, Recoveries(c.View()), 2)
}

func TestAGenerationIsAdoptedOnlyOnTheWordOfSomebodyWhoMayMintIt(t *testing.T) {
	s := newSite(t, 2, 1).found()
	master, member := s.nodes[0], s.nodes[1]
	s.settled(s.coordinator().Index())
	stranger := s.add("stranger")
	own, from := master.View(), master.Site()
	minted := func(by *testNode, c Copy) Copy {
		next := Site{ID: c.site.ID, Generation: NextGeneration(c.site.Generation)}
		st, err := recovered(by.identity, c, Recovery{Site: next.ID, From: c.site.Generation, Generation: next.Generation, Index: c.state.index}, nil)
		require.NoError(t, err)
		return Copy{next, st}
	}
	base := master.copyNow()
	require.NoError(t, CheckSuccession(own, from, true, minted(master, base)), "a master is believed")
	require.NoError(t, CheckSuccession(own, from, false, minted(member, base)), "all masters may be lost")
	require.ErrorIs(t, CheckSuccession(own, from, true, minted(member, base)), ErrNotVouched, "a worker takes no living site")
	require.ErrorIs(t, CheckSuccession(own, from, false, minted(stranger, base)), ErrNotVouched)
	require.NoError(t, CheckSuccession(own, from, true, minted(stranger, minted(master, base))), "whoever came later")

	// What was not signed like that is nobody's word.
	forged := minted(master, base)
	r := Recoveries(forged.View())[0]
	r.Kept = []string{stranger.id().String()}
	v, err := EncodeRecord(r)
	require.NoError(t, err)
	forged.state.entries[RecoveryKey(r.Generation)] = Entry{Key: RecoveryKey(r.Generation), Value: v, Index: forged.state.index}
	require.Error(t, CheckSuccession(own, from, true, forged))
	require.ErrorIs(t, CheckSuccession(own, from, true, Copy{Site{ID: from.ID, Generation: NextGeneration(0)}, base.state}), ErrNotVouched)
	require.Error(t, CheckSuccession(own, Site{ID: from.ID, Generation: NextGeneration(0)}, true, minted(master, base)), "not above")
}

func TestARecoveryChangesNothingWhereTheLedgerIsOpenOrAnothers(t *testing.T) {
	s, survivor, _, _ := lostMajority(t)
	c := survivor.copyNow()
	_, err := Recover(survivor.config(), c, 0, Recovery{}, nil)
	require.ErrorContains(t, err, "in use by another process")
	stranger := s.add("elsewhere")
	stranger.join(Site{ID: "another"})
	config := stranger.config()
	stranger.stop()
	_, err = Recover(config, c, 0, Recovery{}, nil)
	require.ErrorContains(t, err, "this node is of")
	require.Error(t, Adopt(config, c))
	_, err = os.Stat(filepath.Join(stranger.dir, generationPrefix+"1"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestNoClaimOfAGenerationLeavesNoneToMint(t *testing.T) {
	require.False(t, Supersedes(math.MaxUint64, 0))
	require.False(t, Supersedes(math.MaxUint64, 5<<mintBits))
	require.True(t, Supersedes(6<<mintBits|7, 5<<mintBits|9))
	require.True(t, Supersedes(maxMissed<<mintBits, 0))
	require.False(t, Supersedes((maxMissed+1)<<mintBits, 0))
	require.True(t, Supersedes(NextGeneration(maxMissed<<mintBits), maxMissed<<mintBits))
}

func TestTheHighestGenerationSeenIsTheFloorOfTheNext(t *testing.T) {
	_, survivor, _, _ := lostMajority(t)
	c := survivor.copyNow()
	config := survivor.config()
	survivor.stop()
	next, err := Recover(config, c, 7<<mintBits, Recovery{}, nil)
	require.NoError(t, err)
	require.Equal(t, uint64(8), GenerationNumber(next.Generation))
	require.Equal(t, "8-", SpellGeneration(next.Generation)[:2])
	require.Equal(t, "0", SpellGeneration(0))
	survivor.restart()
	_, err = Join(survivor.config(), Site{ID: next.ID})
	require.ErrorContains(t, err, "newer than")
}

func TestANodeThatDoesNotAnswerIsLeftOutOfASurvey(t *testing.T) {
	s := newSite(t, 2, 1).found()
	s.settled(s.coordinator().Index())
	mute := s.nodes[1]
	mute.host.Unhandle(ProtocolFollow)
	mute.host.Handle(ProtocolFollow, p2p.AccessMember, func(s network.Stream) { _ = s.Reset() })
	seen := s.nodes[0].Survey(testContext(t))
	require.Len(t, seen, 1)
	require.Equal(t, s.nodes[0].id(), seen[0].Node)
	_, err := FetchCopy(testContext(t), s.nodes[0].host, mute.id(), s.nodes[0].Site())
	require.Error(t, err)
}
