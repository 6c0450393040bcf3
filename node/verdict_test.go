package node

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/muster-edge/muster/roles"
)

// healthyWorker is a worker of a site of three masters that lacks nothing.
var healthyWorker = observation{
	Member: true, Kubernetes: true, Role: roles.Worker, Connected: true, Running: true, Kubelet: true, NodeReady: true,
	Masters: 3, OthersServing: 3, APIReachable: true, OthersReady: 2,
}

func (o observation) with(change func(*observation)) observation {
	change(&o)
	return o
}

func TestTheConditionOfANodeNamesWhoIsToBlame(t *testing.T) {
	master := healthyWorker.with(func(o *observation) { o.Role, o.Serving, o.OthersServing = roles.MasterHA, true, 2 })
	dead := func(o *observation) { o.Running, o.Kubelet, o.NodeReady, o.Serving = false, false, false, false }
	nobodyServes := func(o *observation) { o.OthersServing, o.APIReachable, o.OthersReady = 0, false, 0 }
	for name, c := range map[string]struct {
		observation
		want condition
		why  string
	}{
		"worker":                  {healthyWorker, conditionWell, "healthy in its role"},
		"master":                  {master, conditionWell, "healthy in its role"},
		"no site":                 {observation{}, conditionWell, "reads its state"},
		"no Kubernetes":           {observation{Member: true, Role: roles.Worker}, conditionWell, "reads its state"},
		"no role yet":             {observation{Member: true, Kubernetes: true}, conditionWell, "reads its state"},
		"state":                   {healthyWorker.with(func(o *observation) { o.StateProblem = "a record of tomorrow" }), conditionIll, "a record of tomorrow"},
		"mesh":                    {healthyWorker.with(func(o *observation) { o.Connected = false; dead(o) }), conditionExcused, "mesh"},
		"may not start":           {healthyWorker.with(func(o *observation) { o.Held = "waits for n1"; dead(o) }), conditionExcused, "n1"},
		"no K3s in the image":     {healthyWorker.with(func(o *observation) { o.Failed = "no k3s binary"; dead(o) }), conditionIll, "no k3s binary"},
		"worker's K3s":            {healthyWorker.with(dead), conditionIll, "an API server answers"},
		"only this one is apart":  {healthyWorker.with(func(o *observation) { dead(o); o.APIReachable = false }), conditionIll, "other workers reach one"},
		"master's K3s":            {master.with(dead), conditionIll, "another master serves"},
		"the only master's K3s":   {master.with(func(o *observation) { dead(o); nobodyServes(o); o.Masters = 1 }), conditionIll, "only master"},
		"all workers are apart":   {healthyWorker.with(func(o *observation) { dead(o); nobodyServes(o) }), conditionExcused, "no other worker"},
		"no majority":             {master.with(func(o *observation) { dead(o); nobodyServes(o) }), conditionExcused, "majority"},
		"datastore":               {master.with(func(o *observation) { dead(o); nobodyServes(o); o.ExternalDB, o.Masters = true, 1 }), conditionExcused, "datastore"},
		"kubelet":                 {healthyWorker.with(func(o *observation) { o.Kubelet, o.NodeReady = false, false }), conditionIll, "kubelet"},
		"not Ready":               {healthyWorker.with(func(o *observation) { o.NodeReady, o.Waiting = false, "cni" }), conditionExcused, "cni"},
		"own API server is apart": {master.with(func(o *observation) { o.Serving, o.Waiting = false, "etcd" }), conditionExcused, "etcd"},
	} {
		t.Run(name, func(t *testing.T) {
			got, why := c.condition()
			require.Equal(t, c.want, got, why)
			require.Contains(t, why, c.why)
		})
	}
}

const testDeadline = 10 * time.Minute

// judged is the verdict on a node that was seen like this, every ten seconds.
func judged(o observation, lasts time.Duration) Verdict {
	var tr trial
	v := VerdictUndecided
	for now := time.Duration(0); now <= lasts; now += 10 * time.Second {
		v, _ = tr.observe(now, o, testDeadline)
	}
	return v
}

func TestS23aAMasterThatIsDownDuringAWorkersTrialIsNotTheImagesFault(t *testing.T) {
	down := healthyWorker.with(func(o *observation) {
		o.Kubelet, o.NodeReady, o.APIReachable, o.OthersServing, o.OthersReady = false, false, false, 0, 0
	})
	require.Equal(t, VerdictUndecided, judged(down, 24*time.Hour))

	// When the API is back, the worker has its own time from then on.
	var tr trial
	for now := time.Duration(0); now < time.Hour; now += 10 * time.Second {
		v, _ := tr.observe(now, down, testDeadline)
		require.Equal(t, VerdictUndecided, v)
	}
	back := down.with(func(o *observation) { o.APIReachable, o.OthersServing = true, 1 })
	v, why := tr.observe(time.Hour, back, testDeadline)
	require.Equal(t, VerdictUndecided, v, why)
	v, _ = tr.observe(time.Hour+testDeadline-time.Second, back, testDeadline)
	require.Equal(t, VerdictUndecided, v)
	v, _ = tr.observe(time.Hour+testDeadline, back, testDeadline)
	require.Equal(t, VerdictBad, v)
}

// The API server of a busy site answers now and then, and the node's own K3s is dead all the time.
func TestS23aAnAPIServerThatAnswersNowAndThenDoesNotSaveAnImage(t *testing.T) {
	ill := healthyWorker.with(func(o *observation) { o.Running, o.Kubelet, o.NodeReady = false, false, false })
	down := ill.with(func(o *observation) { o.APIReachable, o.OthersServing, o.OthersReady = false, 0, 0 })
	verdict := func(looks ...observation) (Verdict, time.Duration) {
		var tr trial
		for now := time.Duration(0); now < 24*time.Hour; now += 10 * time.Second {
			v, _ := tr.observe(now, looks[int(now/(10*time.Second))%len(looks)], testDeadline)
			if v != VerdictUndecided {
				return v, now
			}
		}
		return VerdictUndecided, 0
	}
	v, after := verdict(ill, ill, ill, ill, down)
	require.Equal(t, VerdictBad, v)
	require.Less(t, after, 2*testDeadline)
	v, _ = verdict(ill, down)
	require.Equal(t, VerdictUndecided, v, "nobody can tell")
	v, _ = verdict(ill, ill, down, down, down)
	require.Equal(t, VerdictUndecided, v, "others are ill most of the time")
	v, _ = verdict(ill, ill, ill, ill, healthyWorker)
	require.Equal(t, VerdictUndecided, v, "what was well begins anew")
}

func TestS23bAnImageOfTheCNIThatCannotBePulledIsNotTheImagesFault(t *testing.T) {
	o := healthyWorker.with(func(o *observation) { o.NodeReady, o.Waiting = false, "network plugin not ready" })
	require.Equal(t, VerdictUndecided, judged(o, 24*time.Hour))
}

func TestS23cPowerThatFlickersIsNoVerdict(t *testing.T) {
	ill := healthyWorker.with(func(o *observation) { o.Running, o.Kubelet, o.NodeReady = false, false, false })
	for range 3 {
		require.Equal(t, VerdictUndecided, judged(ill, testDeadline-10*time.Second), "each boot has its own time")
	}
	require.Equal(t, VerdictBad, judged(ill, testDeadline))
}

func TestS23dANodeThatLostItsStateAndItsSiteWithItIsNotIll(t *testing.T) {
	require.Equal(t, VerdictGood, judged(observation{}, time.Minute))
}

func TestHealthForAMomentIsNotGood(t *testing.T) {
	var tr trial
	ill := healthyWorker.with(func(o *observation) { o.Running = false })
	for now := time.Duration(0); now < time.Hour; now += steadyFor {
		v, _ := tr.observe(now, healthyWorker, testDeadline)
		require.NotEqual(t, VerdictGood, v)
		v, _ = tr.observe(now+steadyFor/2, ill, testDeadline)
		require.NotEqual(t, VerdictGood, v)
	}
}

func anyObservation(t *rapid.T) observation {
	flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
	text := func(name string) string { return rapid.SampledFrom([]string{"", "", "something"}).Draw(t, name) }
	count := func(name string) int { return rapid.IntRange(0, 4).Draw(t, name) }
	return observation{
		StateProblem: text("state"), Member: flag("member"), Kubernetes: flag("kubernetes"), Connected: flag("connected"),
		Role:    rapid.SampledFrom([]roles.Role{roles.None, roles.Worker, roles.MasterHA, roles.MasterInit, roles.Master}).Draw(t, "role"),
		Held:    text("held"),
		Failed:  text("failed"),
		Running: flag("running"), Kubelet: flag("kubelet"), Serving: flag("serving"), NodeReady: flag("ready"),
		Masters: rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "masters"), ExternalDB: flag("external"),
		OthersServing: count("serving"), APIReachable: flag("api"), OthersReady: count("others"),
	}
}

// last is the verdict after many looks at random times, and what was seen last.
func last(t *rapid.T, change func(*observation)) (Verdict, observation) {
	var tr trial
	var v Verdict
	var o observation
	now := time.Duration(0)
	for range rapid.IntRange(1, 20).Draw(t, "looks") {
		o = anyObservation(t)
		change(&o)
		v, _ = tr.observe(now, o, testDeadline)
		now += time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "pause"))
	}
	return v, o
}

func TestAnImageIsNeverBadWhileOnlyOthersAreIll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, o := last(t, func(o *observation) {
			// All that is this node's own works.
			o.StateProblem, o.Failed, o.Running, o.Kubelet = "", "", true, true
		})
		require.NotEqual(t, VerdictBad, v, "%+v", o)
	})
	rapid.Check(t, func(t *rapid.T) {
		v, o := last(t, func(o *observation) {
			// The whole site is ill, so that no node can be well.
			o.StateProblem, o.Failed, o.APIReachable, o.OthersServing, o.OthersReady = "", "", false, 0, 0
			if o.Role.IsMaster() {
				o.Masters = max(o.Masters, 3)
			}
		})
		require.NotEqual(t, VerdictBad, v, "%+v", o)
	})
}

func TestAnImageIsNeverGoodWhileOwnUnitsAreDead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, o := last(t, func(o *observation) {
			o.Member, o.Kubernetes, o.Role = true, true, rapid.SampledFrom([]roles.Role{roles.Worker, roles.MasterHA}).Draw(t, "role")
			if rapid.Bool().Draw(t, "which") {
				o.Running = false
			} else {
				o.Kubelet = false
			}
		})
		require.NotEqual(t, VerdictGood, v, "%+v", o)
	})
}

func TestNoVerdictComesBeforeItsTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tr trial
		o := anyObservation(t)
		at := time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "at"))
		v, _ := tr.observe(at, o, testDeadline)
		require.Equal(t, VerdictUndecided, v, "the first look")
		v, _ = tr.observe(at+testDeadline-1, o, testDeadline)
		require.NotEqual(t, VerdictBad, v)
	})
}
