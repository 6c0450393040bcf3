package scenario

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/e2e/lab"
)

// meshOfFive is three masters and two workers, without Kubernetes: these tests are about the mesh and the decisions.
func meshOfFive(t *testing.T) *testSite {
	t.Helper()
	config := newConfig(t)
	config.Masters, config.MinimumNodes, config.NoK3s = 2, 5, true
	s := site(t, 5, config, withoutK3sBinary)
	s.undisturbed(formTime, 3, false)
	return s
}

// seesDead waits until a node has noticed that another is gone.
func (s *testSite) seesDead(by, of string) {
	s.t.Helper()
	s.eventually(soonTime, by+" notices that "+of+" is gone", func() error {
		dead, err := s.isDead(by, of)
		if err == nil && !dead {
			err = fmt.Errorf("%s is not dead to it", of)
		}
		return err
	})
}

// isDead says whether gossip on one node holds another dead.
func (s *testSite) isDead(by, of string) (bool, error) {
	rows, err := s.Seen(s.t.Context(), by)
	if err != nil {
		return false, err
	}
	for _, row := range rows {
		if row.ID == s.id(of) {
			return !row.Ready, nil
		}
	}
	return false, fmt.Errorf("%s does not list %s", by, of)
}

// A cut of 2|3: the larger side goes on deciding, the smaller one says why it does not; afterwards they are one site again,
// with the decisions of the larger side, and everybody is who they were.
func TestACutOfTwoAndThreeAndBack(t *testing.T) {
	s := meshOfFive(t)
	before := s.standings()
	masters := s.masters()
	workers := s.others(masters...)
	large, small := []string{masters[0], masters[1], workers[0]}, []string{masters[2], workers[1]}
	require.NoError(t, s.Partition(t.Context(), large, small))
	for _, node := range small {
		s.eventually(soonTime, node+" says that there is no quorum", func() error {
			status, err := s.status(node)
			if err == nil && status.Quorum {
				err = fmt.Errorf("%+v", status)
			}
			return err
		})
	}
	s.eventually(soonTime, "the larger side decides", func() error {
		_, err := s.Exec(t.Context(), large[1], "muster", "dns", "set", "cut", "192.0.2.7")
		return err
	})
	rows, err := s.ledger(small[1], "dns/cut")
	require.NoError(t, err)
	require.Empty(t, rows, "a decision crossed the cut")
	s.waitWhy(soonTime, small[0], "nothing can be decided: 2 of 3 masters must be up")

	require.NoError(t, s.Heal(t.Context()))
	s.eventually(2*soonTime, "the smaller side has what was decided", func() error {
		for _, node := range s.names() {
			rows, err := s.ledger(node, "dns/cut")
			if err != nil || len(rows) != 1 {
				return fmt.Errorf("%s: %v %w", node, rows, err)
			}
		}
		return nil
	})
	s.undisturbed(2*soonTime, 3, false)
	require.Equal(t, before, s.standings())
}

// One direction of the links between a worker and everybody else is cut: it hears all and nobody hears it. It must not make
// the others doubt each other, nor stop decisions, and is back when the cut ends.
func TestANodeThatHearsAndIsNotHeardHarmsNobody(t *testing.T) {
	s := meshOfFive(t)
	mute := s.others(s.masters()...)[0]
	out := lab.DropOut
	require.NoError(t, s.Link(t.Context(), mute, lab.LinkChange{Drop: &out}))
	rest := s.others(mute)
	for _, node := range rest {
		s.seesDead(node, mute)
	}
	s.eventually(soonTime, "the others decide", func() error {
		_, err := s.Exec(t.Context(), s.masters()[0], "muster", "dns", "set", "heard", "192.0.2.8")
		return err
	})
	for _, node := range rest {
		for _, other := range rest {
			dead, err := s.isDead(node, other)
			require.NoError(t, err)
			require.False(t, dead, "%s holds %s dead", node, other)
		}
	}
	require.NoError(t, s.Heal(t.Context()))
	s.undisturbed(2*soonTime, 3, false)
}

// A node that stands still for three seconds is suspected at most, a coordinator that stands still for longer loses its
// office, and is what it was when it goes on.
func TestAFrozenCoordinatorLosesItsOfficeAndNothingElse(t *testing.T) {
	s := meshOfFive(t)
	before := s.standings()
	frozen := s.coordinator()
	require.NoError(t, s.Signal(t.Context(), frozen, unix.SIGSTOP))
	hold(t, 3*time.Second)
	for _, node := range s.others(frozen) {
		dead, err := s.isDead(node, frozen)
		require.NoError(t, err)
		require.False(t, dead, "%s holds a node dead that stood still for 3 s", node)
	}
	s.eventually(soonTime, "another coordinator", func() error {
		for _, node := range s.others(frozen) {
			status, err := s.status(node)
			if err != nil {
				return err
			}
			if status.Coordinator == "" || status.Coordinator == s.id(frozen) {
				return fmt.Errorf("%s names %q", node, status.Coordinator)
			}
		}
		return nil
	})
	require.NoError(t, s.Signal(t.Context(), frozen, unix.SIGCONT))
	s.undisturbed(2*soonTime, 3, false)
	require.Equal(t, before, s.standings())
}

// A third of all frames lost and 200 ms each way on one master, and a worker's cable that flaps: decisions are still made
// from everywhere, and the site is whole afterwards.
func TestABadLinkAndAFlappingOneDoNotStopDecisions(t *testing.T) {
	s := meshOfFive(t)
	masters := s.masters()
	bad, flapping := masters[2], s.others(masters...)[0]
	loss, delay := 30.0, 200*time.Millisecond
	require.NoError(t, s.Link(t.Context(), bad, lab.LinkChange{Loss: &loss, Delay: &delay}))
	for i := range 5 {
		out := i%2 == 0
		require.NoError(t, s.Link(t.Context(), flapping, lab.LinkChange{Down: &out}))
		s.eventually(2*soonTime, "a decision through the bad link", func() error {
			_, err := s.Exec(t.Context(), bad, "muster", "dns", "set", fmt.Sprintf("bad%d", i), "192.0.2.9")
			return err
		})
	}
	require.NoError(t, s.Heal(t.Context()))
	s.undisturbed(2*soonTime, 3, false)
	for i := range 5 {
		s.eventually(soonTime, "the flapping node has what was decided", func() error {
			rows, err := s.ledger(flapping, fmt.Sprintf("dns/bad%d", i))
			if err == nil && len(rows) != 1 {
				err = fmt.Errorf("dns/bad%d: %v", i, rows)
			}
			return err
		})
	}
}

// A coordinator whose disk is full cannot carry out what it decides, while Raft, whose log has room set aside, would let it
// lead for ever. It hands its office over, says what is wrong, and is well when there is room again.
func TestS9LeadershipLeavesAFullDisk(t *testing.T) {
	s := meshOfFive(t)
	full := s.coordinator()
	// The state directory moves to a small file system while the agent is away.
	require.NoError(t, s.KillAgent(t.Context(), full, unix.SIGKILL))
	s.run(full, "sh", "-ec", `cd /usr/local/.muster
mkdir /tmp/kept && cp -a . /tmp/kept/
mount -t tmpfs -o size=32m tmpfs /usr/local/.muster
cp -a /tmp/kept/. /usr/local/.muster/`)
	require.NoError(t, s.Start(t.Context(), full))
	s.undisturbed(2*soonTime, 3, false)
	// Whoever has the office now gives it up if it is not the one with the small disk: decisions must meet the full disk.
	for s.coordinator() != full {
		other := s.coordinator()
		require.NoError(t, s.Signal(t.Context(), other, unix.SIGSTOP))
		s.eventually(soonTime, "another coordinator than "+other, func() error {
			status, err := s.status(full)
			if err == nil && (status.Coordinator == "" || status.Coordinator == s.id(other)) {
				err = fmt.Errorf("it is still %q", status.Coordinator)
			}
			return err
		})
		require.NoError(t, s.Signal(t.Context(), other, unix.SIGCONT))
		s.undisturbed(2*soonTime, 3, false)
	}

	s.run(full, "sh", "-c", "dd if=/dev/zero of=/usr/local/.muster/rubbish bs=4k 2>/dev/null; true")
	rest := slices.DeleteFunc(s.masters(), func(name string) bool { return name == full })
	// The last page of each file has room for some decisions yet.
	decided := 0
	s.eventually(2*soonTime, "decisions meet the full disk", func() error {
		if _, err := s.Exec(t.Context(), rest[0], "muster", "dns", "set", fmt.Sprintf("full%d", decided%16), fmt.Sprintf("192.0.2.%d", decided%250)); err != nil {
			return err
		}
		decided++
		status, err := s.status(rest[0])
		if err == nil && (status.Coordinator == "" || status.Coordinator == s.id(full)) {
			err = fmt.Errorf("after %d decisions %q has the office", decided, status.Coordinator)
		}
		return err
	})
	s.waitWhy(soonTime, full, "no space left on device")

	s.run(full, "rm", "/usr/local/.muster/rubbish")
	s.undisturbed(2*soonTime, 3, false)
	s.eventually(soonTime, "it has what was decided meanwhile", func() error {
		rows, err := s.ledger(full, "dns/full0")
		if err == nil && len(rows) != 1 {
			err = fmt.Errorf("%v", rows)
		}
		return err
	})
}
