package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/upgrade"
)

var (
	imageOne = strings.Repeat("1", 64)
	imageTwo = strings.Repeat("2", 64)
)

// fakeSlots is a machine whose active slot was started with imageTwo, while
// passive holds imageOne.
type fakeSlots struct {
	boot       upgrade.Boot
	bootErr    error
	onTrial    bool
	otherGood  bool
	busy       bool
	marked     int
	bad        []string
	tries      int
	otherLevel int
}

func newSlots() *fakeSlots {
	return &fakeSlots{boot: upgrade.Boot{Slot: upgrade.Active, Image: imageTwo}, onTrial: true, otherGood: true}
}

func (f *fakeSlots) Booted() (upgrade.Boot, error) { return f.boot, f.bootErr }
func (f *fakeSlots) OnTrial() (bool, error)        { return f.onTrial, nil }
func (f *fakeSlots) SetTries(n int) error          { f.tries = n; return nil }

func (f *fakeSlots) State(context.Context, bool) (upgrade.State, error) {
	return upgrade.State{Slots: map[string]upgrade.SlotState{
		upgrade.Active:  {Version: "v2", Digest: digest(imageTwo), FeatureLevel: 1},
		upgrade.Passive: {Version: "v1", Digest: digest(imageOne), Good: f.otherGood, FeatureLevel: f.otherLevel},
	}}, nil
}

func (f *fakeSlots) MarkGood(upgrade.Options) error {
	if f.busy {
		return upgrade.ErrBusy
	}
	f.marked++
	return nil
}

func (f *fakeSlots) RecordBad(reason string, _ upgrade.Options) error {
	f.bad = append(f.bad, reason)
	return nil
}

// judge is an agent that is no more than its assessor needs; what it sees of
// itself is sees.
type judge struct {
	*assessor
	t       *testing.T
	slots   *fakeSlots
	sees    observation
	reboots int
}

func newJudge(t *testing.T, slots *fakeSlots) *judge {
	dir := t.TempDir()
	events, err := openEvents(filepath.Join(dir, "events.jsonl"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, events.close()) })
	j := &judge{t: t, slots: slots}
	a := &Agent{log: slog.New(slog.DiscardHandler), events: events, opts: Options{
		Config: &config.Config{Upgrade: config.Upgrade{HealthDeadline: testDeadline, Tries: 4}}, StateDir: dir, RunDir: dir, Slots: slots,
		Reboot: func(context.Context) error { j.reboots++; return nil },
	}}
	a.loop = newLoop(&a.changed, a.log)
	j.assessor = a.openImage()
	require.NotNil(t, j.assessor)
	j.observe = func(context.Context) observation { return j.sees }
	return j
}

// pass lets the judge look for so long, and returns its last sentences.
func (j *judge) pass(d time.Duration) (last []string) {
	for end := time.Now().Add(d); !time.Now().After(end); time.Sleep(5 * time.Second) {
		var err error
		last, err = j.run(j.t.Context())
		require.NoError(j.t, err)
	}
	return last
}

func (j *judge) happened() (all []string) {
	for _, e := range j.agent.events.list() {
		all = append(all, e.What)
	}
	return all
}

var deadWorker = healthyWorker.with(func(o *observation) { o.Running, o.Kubelet, o.NodeReady = false, false, false })

func TestAnImageThatProvesGoodIsMarkedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJudge(t, newSlots())
		j.sees = healthyWorker
		require.Equal(t, []string{"the image v2 in the active slot is on trial: the node is healthy in its role for 10s, and must be for 20s"}, j.pass(14*time.Second))
		require.Equal(t, VerdictUndecided, j.now())
		require.NoFileExists(t, filepath.Join(j.agent.opts.RunDir, judgedFile))
		require.Empty(t, j.pass(time.Hour))
		require.Equal(t, 1, j.slots.marked)
		require.Equal(t, 4, j.slots.tries)
		require.Zero(t, j.reboots)
		require.Equal(t, VerdictGood, j.now())
		require.FileExists(t, filepath.Join(j.agent.opts.RunDir, judgedFile))
		require.Equal(t, []string{"booted the image v2 in the active slot", "the image v2 in the active slot proved good"}, j.happened())

		j.sees = deadWorker
		require.Empty(t, j.pass(time.Hour), "good images are not judged again")
		require.Zero(t, j.reboots)
	})
}

func TestAMarkWaitsForAnUpgradeThatIsAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJudge(t, newSlots())
		j.sees, j.slots.busy = healthyWorker, true
		require.Len(t, j.pass(time.Minute), 1)
		j.slots.busy = false
		require.Empty(t, j.pass(time.Minute))
		require.Equal(t, 1, j.slots.marked)
	})
}

func TestAnImageThatIsBadIsRecordedAndTheMachineRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJudge(t, newSlots())
		j.sees = deadWorker
		j.pass(testDeadline - 10*time.Second)
		require.Zero(t, j.reboots)
		require.Contains(t, j.pass(time.Minute)[0], "is bad, the machine restarts: this node's K3s does not run")
		require.Equal(t, 1, j.reboots, "once")
		require.Len(t, j.slots.bad, 1)
		require.Contains(t, j.slots.bad[0], "K3s does not run")
		require.Contains(t, j.happened(), "the image v2 in the active slot is bad, the machine restarts")
		require.Zero(t, j.slots.marked)
		j.pass(rebootAgain)
		require.Equal(t, 2, j.reboots, "a restart that did not come is asked for again")
	})
}

func TestAMachineWithNothingBetterIsNotRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJudge(t, newSlots())
		j.sees, j.slots.otherGood = deadWorker, false
		require.Contains(t, j.pass(time.Hour)[0], "no other image that proved good is there")
		require.Zero(t, j.reboots)
		j.sees = healthyWorker
		require.Empty(t, j.pass(time.Minute))
		require.Equal(t, 1, j.slots.marked, "it may still prove good")
	})
}

func TestAnImageThatIsGoodAlreadyIsConfirmedAndNeverBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJudge(t, newSlots())
		j.slots.onTrial, j.sees = false, deadWorker
		require.Empty(t, j.pass(time.Hour))
		require.Zero(t, j.reboots)
		require.Zero(t, j.slots.marked, "what fell back is not in quarantine while the old image is not healthy either")
		require.FileExists(t, filepath.Join(j.agent.opts.RunDir, judgedFile))
		j.sees = healthyWorker
		require.Empty(t, j.pass(time.Minute))
		require.Equal(t, 1, j.slots.marked)
		require.Equal(t, []string{"booted the image v2 in the active slot"}, j.happened())
	})
}

func TestRecoveryIsNeverJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := newSlots()
		slots.boot.Slot = upgrade.Recovery
		j := newJudge(t, slots)
		j.sees = deadWorker
		require.Empty(t, j.pass(time.Hour))
		require.Zero(t, j.reboots+slots.marked)
	})
}

func TestTheImageThatWasBootedIsToldWhenItIsAnother(t *testing.T) {
	j := newJudge(t, newSlots())
	require.NoError(t, j.introduce(t.Context()))
	j.told = false // as if the agent had started again
	require.NoError(t, j.introduce(t.Context()))
	require.Equal(t, []string{"booted the image v2 in the active slot"}, j.happened())
	j.told, j.boot.Image, j.boot.Slot = false, imageOne, upgrade.Passive
	require.NoError(t, j.introduce(t.Context()))
	require.Equal(t, []string{"booted the image v2 in the active slot", "booted the image v1 in the passive slot"}, j.happened())
	noted, err := os.ReadFile(j.agent.path("booted"))
	require.NoError(t, err)
	require.Equal(t, imageOne, string(noted))
}

func TestANodeKnowsOnlyTheFeaturesThatBothItsSlotsKnow(t *testing.T) {
	for name, c := range map[string]struct{ running, other, want int }{
		"both":                   {3, 3, 3},
		"the other is older":     {3, 2, 2},
		"the other is newer":     {3, 4, 3},
		"the other does not say": {3, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			slots := newSlots()
			slots.otherLevel = c.other
			j := newJudge(t, slots)
			f := Facts{FeatureLevel: c.running}
			j.tell(&f)
			require.Equal(t, c.running, f.FeatureLevel, "before the slots were read")
			j.look(t.Context())
			j.tell(&f)
			require.Equal(t, c.want, f.FeatureLevel)
			require.Equal(t, Facts{
				FeatureLevel: c.want, Slot: "active", Image: digest(imageTwo), ImageVersion: "v2",
				Passive: SlotFacts{Image: digest(imageOne), Version: "v1", FeatureLevel: max(1, c.other)},
			}, f)
		})
	}
}

func TestAMachineWithoutSlotsHasNothingToJudge(t *testing.T) {
	a := &Agent{log: slog.New(slog.DiscardHandler)}
	require.Nil(t, a.openImage())
	a.opts.Slots = &fakeSlots{bootErr: upgrade.ErrNotBooted}
	require.Nil(t, a.openImage())
	f := Facts{FeatureLevel: 7}
	a.image.tell(&f)
	require.Equal(t, Facts{FeatureLevel: 7}, f)
	require.NoError(t, MarkAlone(a.opts.Slots, t.TempDir()))

	a.loop = newLoop(&a.changed, a.log)
	a.opts.Slots = &fakeSlots{bootErr: errors.New("torn")}
	require.Nil(t, a.openImage())
	require.Contains(t, a.loop.sentences()[0], "torn")
}

func TestAMachineWithoutASiteHasAGoodImage(t *testing.T) {
	slots, dir := newSlots(), t.TempDir()
	require.NoError(t, MarkAlone(slots, dir))
	require.Equal(t, 1, slots.marked)
	require.FileExists(t, filepath.Join(dir, judgedFile))
}

func TestADeadAgentIsJudgedInItsPlace(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*fakeSlots, *AgentCheck)
		reboots  int
		complain string
	}{
		"dead":                        {reboots: 1},
		"not yet":                     {change: func(_ *fakeSlots, c *AgentCheck) { c.Uptime = up(testDeadline + agentMargin - time.Second) }},
		"good already":                {change: func(s *fakeSlots, _ *AgentCheck) { s.onTrial = false }},
		"not from a slot":             {change: func(s *fakeSlots, _ *AgentCheck) { s.bootErr = upgrade.ErrNotBooted }},
		"nothing better":              {change: func(s *fakeSlots, _ *AgentCheck) { s.otherGood = false }, complain: "no other slot"},
		"ends again and again":        {change: func(_ *fakeSlots, c *AgentCheck) { c.Restarts = restarted(manyRestarts) }, reboots: 1},
		"restarts that are not known": {change: func(_ *fakeSlots, c *AgentCheck) { c.Restarts = unknownRestarts }, reboots: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slots, reboots := newSlots(), 0
				check := AgentCheck{
					Slots: slots, RunDir: t.TempDir(), Deadline: testDeadline, Log: slog.New(slog.DiscardHandler), Uptime: up(testDeadline + agentMargin), Restarts: restarted(0),
					Reboot: func(context.Context) error { reboots++; return nil },
				}
				if c.change != nil {
					c.change(slots, &check)
				}
				err := CheckAgent(t.Context(), check)
				if c.complain == "" {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, c.complain)
				}
				require.Equal(t, c.reboots, reboots)
				require.Len(t, slots.bad, c.reboots)
			})
		})
	}
}

func up(d time.Duration) func() (time.Duration, error) {
	return func() (time.Duration, error) { return d, nil }
}

func restarted(n int) func(context.Context) (int, error) {
	return func(context.Context) (int, error) { return n, nil }
}

func unknownRestarts(context.Context) (int, error) { return 0, errors.New("no systemd") }

func TestAMemberShowsWhatItRunsFromAndWhyItIsOnTrial(t *testing.T) {
	a := newTestAgent(t, "box", loopback(testToken(t), "", 1))
	a.opts.Slots = newSlots()
	a.opts.Reboot = func(context.Context) error { return errors.New("never") }
	a.start()
	a.until("a verdict", func() bool { return a.status().Verdict == VerdictUndecided && a.phase().Phase == PhaseRunning })
	require.Contains(t, strings.Join(a.why(), "\n"), "the image v2 in the active slot is on trial")
	require.Equal(t, observation{Member: true, Role: a.observation(t.Context()).Role, Connected: true}, a.observation(t.Context()))
	a.until("its own row", func() bool { rows := a.rows(); return len(rows) == 1 && rows[0].ImageVersion == "v2" })
	row := a.rows()[0]
	require.Equal(t, "active", row.Slot)
	require.Equal(t, digest(imageTwo), row.Image)
	var said bytes.Buffer
	require.NoError(t, WriteStatus(&said, a.status()))
	require.Contains(t, said.String(), "v2 in active, undecided")
}
