package ledger

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// setMasters decides who is master, by the coordinator.
func (s *testSite) setMasters(roles map[*testNode]string) {
	s.t.Helper()
	c := s.coordinator()
	txn := Txn{}
	for n, role := range roles {
		value, err := EncodeRecord(Role{Role: role})
		require.NoError(s.t, err)
		txn = txn.Set(RoleKey(n.id()), value)
	}
	_, err := c.Ledger.Propose(testContext(s.t), txn)
	require.NoError(s.t, err)
}

// keepVoters runs what the coordinator's agent does until the voters are those.
func (s *testSite) keepVoters(want ...*testNode) {
	s.t.Helper()
	var ids []peer.ID
	for _, n := range want {
		ids = append(ids, n.id())
	}
	eventually(s.t, "the voters are the masters", func() bool {
		c := s.coordinator()
		_, err := c.Ledger.KeepVoters(testContext(s.t), Masters(c.Ledger.View()))
		if err != nil {
			s.t.Log(err)
			return false
		}
		v := c.Ledger.voting()
		if v == nil {
			return false
		}
		servers := v.servers()
		if len(servers) != len(want) {
			return false
		}
		for _, server := range servers {
			id, _ := serverPeer(server.ID)
			if server.Suffrage != raft.Voter || !containsID(ids, id) {
				return false
			}
		}
		return true
	})
}

func containsID(ids []peer.ID, id peer.ID) bool {
	for _, other := range ids {
		if other == id {
			return true
		}
	}
	return false
}

func TestVotersFollowTheMasters(t *testing.T) { // S9
	s := newSite(t, 4, 3).found()
	c := s.coordinator()
	var dead, worker *testNode
	for _, n := range s.nodes {
		switch {
		case n.Ledger.voting() == nil:
			worker = n
		case n != c && dead == nil:
			dead = n
		}
	}
	dead.stop()
	s.setMasters(map[*testNode]string{dead: RoleWorker, worker: RoleHA})
	require.NoError(t, worker.Ledger.Vote(true))
	require.NoError(t, worker.Ledger.Vote(true), "idempotent")

	var masters []*testNode
	for _, n := range s.nodes {
		if n != dead {
			masters = append(masters, n)
		}
	}
	s.keepVoters(masters...)

	// The new voter decides with the others, also after a restart.
	worker.stop()
	worker.restart()
	_, err := worker.Ledger.Propose(testContext(t), dns("a.example", "192.0.2.1", 0))
	require.NoError(t, err)
	eventually(t, "it sees itself among the voters", func() bool { return len(worker.Ledger.Status().Voters) == 3 })

	// The one that was replaced comes back as a voter, hears so, and follows.
	dead.restart()
	eventually(t, "it learns what was decided without it", func() bool {
		_, known := dead.Ledger.Get(DNSKey("a.example"))
		return known && confirmed(dead.Ledger.Status())
	})
	require.NotContains(t, Masters(dead.Ledger.View()), dead.id())
	eventually(t, "it learns that its vote counts no more", func() bool { return !dead.Ledger.VoteCounts() })
	require.NoError(t, dead.Ledger.Vote(false))
	index, err := worker.Ledger.Propose(testContext(t), dns("b.example", "192.0.2.1", 0))
	require.NoError(t, err)
	s.settled(index)
	dead.stop()
	dead.restart()
	require.False(t, dead.Ledger.Status().Voter)

	// And may be made one again, as a new server.
	s.setMasters(map[*testNode]string{dead: RoleHA, worker: RoleWorker})
	require.NoError(t, dead.Ledger.Vote(true))
	masters = masters[:0]
	for _, n := range s.nodes {
		if n != worker {
			masters = append(masters, n)
		}
	}
	require.True(t, worker.Ledger.VoteCounts(), "it is no master, and still one of three voters")
	s.keepVoters(masters...)
	eventually(t, "the voters let it go", func() bool { return !worker.Ledger.VoteCounts() })
	require.NoError(t, worker.Ledger.Vote(false))
	_, err = dead.Ledger.Propose(testContext(t), dns("c.example", "192.0.2.1", 0))
	require.NoError(t, err)
}

// confirmed is what an agent takes for word from the site.
func confirmed(s Status) bool { return s.Quorum && s.Behind == 0 && s.Following != "" }

func TestAVoterThatLostItsSeatsStorageDoesNotVoteAgain(t *testing.T) { // S5
	s := newSite(t, 2, 1).found()
	worker := s.nodes[0]
	if worker.Ledger.voting() != nil {
		worker = s.nodes[1]
	}
	require.NoError(t, worker.Ledger.Vote(true))
	first := worker.Ledger.voting().self
	require.NoError(t, worker.Ledger.Vote(false))
	require.NoError(t, worker.Ledger.Vote(true))
	require.NotEqual(t, first, worker.Ledger.voting().self, "another storage is another server")
}

func TestPlanVotersNeverGivesAMajorityAway(t *testing.T) { // S9
	id := func(i int) peer.ID {
		identity, _ := newIdentity(t, string(rune('a'+i)))
		return identity.ID()
	}
	ids := []peer.ID{id(0), id(1), id(2), id(3)}
	server := func(i int, suffrage raft.ServerSuffrage) raft.Server {
		return raft.Server{ID: serverID(ids[i], "1"), Suffrage: suffrage}
	}
	candidate := func(i int, caughtUp bool) VoterCandidate {
		return VoterCandidate{ID: ids[i], Server: serverID(ids[i], "1"), CaughtUp: caughtUp}
	}
	three := []raft.Server{server(0, raft.Voter), server(1, raft.Voter), server(2, raft.Voter)}
	self := three[0].ID
	none := map[raft.ServerID]time.Time{}
	dead := map[raft.ServerID]time.Time{three[2].ID: {}}
	ab := []VoterCandidate{candidate(0, true), candidate(1, true)}

	plan := func(servers []raft.Server, c []VoterCandidate, lost map[raft.ServerID]time.Time) VoterStep {
		return PlanVoters(servers, self, c, lost)
	}
	step := plan(three, append(ab, candidate(3, false)), dead)
	require.Equal(t, VoterListen, step.Do, "the successor listens first")
	withD := append(three[:3:3], server(3, raft.Nonvoter))
	step = plan(withD, append(ab, candidate(3, false)), dead)
	require.Equal(t, VoterKeep, step.Do, "nobody goes before it has caught up")
	step = plan(withD, append(ab, candidate(3, true)), dead)
	require.Equal(t, VoterStep{Do: VoterRemove, Server: three[2].ID, Waiting: step.Waiting}, step)
	step = plan([]raft.Server{three[0], three[1], withD[3]}, append(ab, candidate(3, true)), none)
	require.Equal(t, VoterSeat, step.Do)
	step = plan(withD, append(ab, candidate(3, true)), none)
	require.Equal(t, VoterStep{Do: VoterSeat, Server: withD[3].ID, Waiting: step.Waiting}, step, "one that lives votes until another one does")
	four := append(three[:3:3], server(3, raft.Voter))
	step = plan(four, append(ab, candidate(3, true)), none)
	require.Equal(t, VoterStep{Do: VoterRemove, Server: three[2].ID, Waiting: step.Waiting}, step)
	step = plan(three, append(ab, VoterCandidate{ID: ids[3]}), dead)
	require.Equal(t, VoterKeep, step.Do, "the successor has not come: the dead may come back")
	step = plan(three, ab, map[raft.ServerID]time.Time{three[1].ID: {}})
	require.Equal(t, VoterKeep, step.Do, "a live vote that is needed stays")
	require.Contains(t, step.Waiting, ids[2])
	step = plan(three, []VoterCandidate{candidate(1, true), candidate(2, true)}, none)
	require.Equal(t, VoterHandOver, step.Do, "a coordinator that goes hands over first")
}
