package scenario

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/e2e/lab"
	"github.com/muster-edge/muster/e2e/section"
)

// The benchmarks below are a section of docs/BENCHMARKS.md: `make bench-faults` runs them, each -benchtime runs, and
// writes the section when MUSTER_BENCH_OUT names the file.

const aboutFaults = `## What faults cost a site

Real agents in the lab, on one machine: 3 masters and 2 workers without Kubernetes, where a row does not say otherwise; power cuts are kills of every process of a node. Times are by the agents' own logs, or looked for each 0.1 s.
Median, and the 95th percentile in brackets.
`

// faults are the rows of the table, in the order in which they were measured.
var faults struct {
	sync.Mutex
	rows []string
}

func faultRow(b *testing.B, what string, runs int, result, bar string, met bool) {
	b.Helper()
	switch {
	case bar == "":
	case met:
		bar += ": PASS"
	default:
		bar += ": FAIL"
		b.Errorf("%s: %s, bar missed: %s", what, result, bar)
	}
	faults.Lock()
	defer faults.Unlock()
	faults.rows = append(faults.rows, fmt.Sprintf("| %s | %d | %s | %s |", what, runs, result, bar))
	table := "| what | runs | result | bar |\n| --- | --- | --- | --- |\n" + strings.Join(faults.rows, "\n") + "\n"
	b.Logf("\n%s", table)
	if path := os.Getenv("MUSTER_BENCH_OUT"); path != "" {
		require.NoError(b, section.Write(path, "faults", aboutFaults+"\n"+table, "make bench-faults"))
	}
}

func timeRow(b *testing.B, what string, all []time.Duration, bar time.Duration) {
	b.Helper()
	text := ""
	if bar > 0 {
		text = fmt.Sprintf("p95 ≤ %s", bar)
	}
	faultRow(b, what, len(all), section.Spread(all), text, section.Quantile(all, 0.95) <= bar)
}

// meshOfFive is three masters and two workers, settled.
func meshOfFive(b *testing.B) *testSite {
	b.Helper()
	config := newConfig(b)
	config.Masters, config.MinimumNodes, config.NoK3s = 2, 5, true
	s := site(b, 5, config, func(o *lab.Options) { o.K3s = "" })
	s.waitReady(formTime)
	s.waitAllAlive()
	return s
}

// waitAllAlive waits until every node sees all others ready, through one coordinator.
func (s *testSite) waitAllAlive() {
	s.t.Helper()
	s.eventually(2*soonTime, "everybody sees everybody", func() error {
		for _, name := range s.names() {
			rows, err := s.Seen(s.t.Context(), name)
			if err != nil {
				return err
			}
			for _, row := range rows {
				if !row.Ready {
					return fmt.Errorf("%s sees %s %s: %s", name, row.Hostname, row.Phase, row.Reason)
				}
			}
			if len(rows) != len(s.names()) {
				return fmt.Errorf("%s sees %d nodes", name, len(rows))
			}
		}
		return nil
	})
}

// deaths are the moments since a time at which a node's gossip called others dead.
func (s *testSite) deaths(by string, since time.Time) map[string]time.Time {
	s.t.Helper()
	found := map[string]time.Time{}
	lines := bufio.NewScanner(strings.NewReader(s.agentLog(by)))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		_, id, dead := strings.Cut(line, `msg="member dead"`)
		if !dead {
			continue
		}
		stamp, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		require.NoError(s.t, err, line)
		_, id, _ = strings.Cut(id, "peer=")
		id, _, _ = strings.Cut(id, " ")
		if at.After(since) {
			found[id] = at
		}
	}
	require.NoError(s.t, lines.Err())
	return found
}

// BenchmarkCoordinatorLost cuts the coordinator's power.
func BenchmarkCoordinatorLost(b *testing.B) {
	s := meshOfFive(b)
	var noticed, known, decided []time.Duration
	run := 0
	for b.Loop() {
		status, err := s.status(s.names()[0])
		require.NoError(b, err)
		rows := s.rows()
		var lost string
		for name, row := range rows {
			if row.ID == status.Coordinator {
				lost = name
			}
		}
		id, rest := rows[lost].ID, s.others(lost)
		master := slices.DeleteFunc(s.masters(), func(name string) bool { return name == lost })[0]
		run++
		cut := time.Now()
		require.NoError(b, s.Kill(b.Context(), lost))
		var deciding sync.WaitGroup
		var first time.Duration
		deciding.Go(func() {
			for try := 0; b.Context().Err() == nil && time.Since(cut) < soonTime; try++ {
				if _, err := s.Exec(b.Context(), master, "muster", "dns", "set", fmt.Sprintf("lost%d", run), "192.0.2.1"); err == nil {
					first = time.Since(cut)
					return
				}
			}
		})
		s.within(soonTime, "all know the same other coordinator", func() error {
			next := ""
			for _, name := range rest {
				now, err := s.status(name)
				if err == nil && (now.Coordinator == "" || now.Coordinator == id || next != "" && next != now.Coordinator) {
					err = fmt.Errorf("%s knows %q, another %q", name, now.Coordinator, next)
				}
				if err != nil {
					return err
				}
				next = now.Coordinator
			}
			return nil
		})
		known = append(known, time.Since(cut))
		deciding.Wait()
		require.NotZero(b, first, "nothing was decided")
		decided = append(decided, first)
		noticed = append(noticed, s.waitDead(id, rest, cut).Sub(cut))
		require.NoError(b, s.Start(b.Context(), lost))
		s.waitReady(soonTime)
		s.waitAllAlive()
	}
	timeRow(b, "power of the coordinator is cut, until gossip on all 4 others calls it dead", noticed, 10*time.Second)
	timeRow(b, "… until all 4 know the next coordinator", known, 10*time.Second)
	timeRow(b, "… until a decision that was asked for at once is made", decided, 0)
}

// BenchmarkWorkerLost cuts the power of a node that is no master.
func BenchmarkWorkerLost(b *testing.B) {
	s := meshOfFive(b)
	masters := s.masters()
	workers := s.others(masters...)
	var noticed []time.Duration
	for i := 0; b.Loop(); i++ {
		lost := workers[i%len(workers)]
		id := s.rows()[lost].ID
		cut := time.Now()
		require.NoError(b, s.Kill(b.Context(), lost))
		noticed = append(noticed, s.waitDead(id, s.others(lost), cut).Sub(cut))
		require.NoError(b, s.Start(b.Context(), lost))
		s.waitReady(soonTime)
		s.waitAllAlive()
	}
	timeRow(b, "power of a worker is cut, until gossip on all 4 others calls it dead", noticed, 10*time.Second)
}

// waitDead waits until the gossip of all these nodes calls a node dead, and returns when the last of them did.
func (s *testSite) waitDead(id string, by []string, since time.Time) (last time.Time) {
	s.t.Helper()
	s.within(soonTime, "all call it dead", func() error {
		for _, name := range by {
			at, dead := s.deaths(name, since)[id]
			if !dead {
				return errors.New(name + " does not")
			}
			if at.After(last) {
				last = at
			}
		}
		return nil
	})
	return last
}

// within is eventually, looked at more often.
func (s *testSite) within(limit time.Duration, what string, look func() error) {
	s.t.Helper()
	for begun := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		err := look()
		if err == nil {
			return
		}
		require.Less(s.t, time.Since(begun), limit, "%s: %v", what, err)
	}
}

// BenchmarkDecisions makes decisions through one master, over the status API.
func BenchmarkDecisions(b *testing.B) {
	s := meshOfFive(b)
	master := s.masters()[0]
	const count = 200
	ways := []struct {
		what string
		at   int
		took []time.Duration
	}{{what: "one after another", at: 1}, {what: "8 at a time", at: 8}}
	for b.Loop() {
		for i, w := range ways {
			script := fmt.Sprintf(`for i in $(seq %d); do
[ $i = 1 ] || echo next
echo unix-socket=/run/muster/muster.sock; echo fail; echo silent; echo url=http://muster/v1/dns/d$i; echo request=PUT; echo 'data="[\"192.0.2.1\"]"'; done >/tmp/decide
begun=$(date +%%s%%N)
curl -Z --parallel-max %d -K /tmp/decide >/dev/null
echo $(( $(date +%%s%%N) - begun ))`, count, w.at)
			ns, err := strconv.ParseInt(strings.TrimSpace(s.run(master, "sh", "-ec", script)), 10, 64)
			require.NoError(b, err)
			ways[i].took = append(w.took, time.Duration(ns))
		}
	}
	for _, w := range ways {
		perSecond := func(part float64) float64 { return count / section.Quantile(w.took, part).Seconds() }
		faultRow(b, "decisions per second through one master, "+w.what+"; the slowest 5 % in brackets", len(w.took), fmt.Sprintf("%.0f /s (%.0f)", perSecond(0.5), perSecond(0.95)), "", true)
	}
}

// BenchmarkNoFalseDeath counts who is called dead and is not.
func BenchmarkNoFalseDeath(b *testing.B) {
	if b.N > 1 {
		return // the call before, with b.N = 1, has measured
	}
	s := meshOfFive(b)
	calm := time.Now()
	dead := func() (n int) {
		for _, name := range s.names() {
			n += len(s.deaths(name, calm))
		}
		return n
	}
	const freezes = 20
	for i := range freezes {
		frozen := s.names()[i%5]
		require.NoError(b, s.Signal(b.Context(), frozen, unix.SIGSTOP))
		time.Sleep(3 * time.Second)
		require.NoError(b, s.Signal(b.Context(), frozen, unix.SIGCONT))
		time.Sleep(3 * time.Second)
	}
	n := dead()
	faultRow(b, "a node is frozen for 3 s: nodes called dead", freezes, strconv.Itoa(n), "none", n == 0)

	calm = time.Now()
	loss := 10.0
	for _, name := range s.names() {
		require.NoError(b, s.Link(b.Context(), name, lab.LinkChange{Loss: &loss}))
	}
	time.Sleep(10 * time.Minute)
	n = dead()
	faultRow(b, "10 minutes of 10 % loss on every link: nodes called dead", 1, strconv.Itoa(n), "none", n == 0)
}

// revokedFor is how long after a revocation its effect is watched.
const revokedFor = 5 * time.Second

// BenchmarkRevocation throws nodes out that ping another without a pause.
func BenchmarkRevocation(b *testing.B) {
	config := newConfig(b)
	config.MinimumNodes, config.NoK3s = 2, true
	s := site(b, 3, config, func(o *lab.Options) { o.K3s = "" })
	s.waitReady(formTime)
	master := s.byRole()["master"][0]
	witness := s.others(master)[0]
	var silent []time.Duration
	for b.Loop() {
		s.waitAllAlive()
		out := s.others(master, witness)[0]
		to := s.rows()[out].Address
		s.run(witness, "ping", "-c", "1", "-w", "10", to)
		last := s.pingAll(witness, to)
		asked := time.Now()
		token := strings.TrimSpace(s.run(master, "muster", "node", "revoke", s.rows()[out].Hostname))
		time.Sleep(revokedFor)
		end := last().Sub(asked)
		require.Less(b, end, revokedFor-time.Second, "packets still come through")
		silent = append(silent, end)
		config.Token = token
		require.NoError(b, s.Wipe(b.Context(), out))
		require.NoError(b, s.Configure(b.Context(), out, config.yaml(b)))
		require.NoError(b, s.Start(b.Context(), out))
		s.waitReady(soonTime)
	}
	timeRow(b, "a worker of a site of 3 is revoked, until the last packet between it and another", silent, 0)
}

// BenchmarkMasterReplaced loses a master of a site with Kubernetes for good, again and again: each time the node that was
// lost before is the worker that takes the place.
func BenchmarkMasterReplaced(b *testing.B) {
	const patience = 20 * time.Second
	config := newConfig(b)
	config.Masters, config.MinimumNodes, config.ReplaceAfter = 2, 4, patience
	s := site(b, 4, config)
	s.waitReady(readyTime)
	s.formed(readyTime, "n1")
	var took []time.Duration
	for b.Loop() {
		s.waitAllAlive()
		worker, lost := s.byRole()["worker"][0], s.byRole()["master/ha"][0]
		cut := time.Now()
		require.NoError(b, s.Kill(b.Context(), lost))
		s.waitRows(replaceTime, "the worker serves in its place", func(row lab.NodeStatus) bool { return row.Role == "master/ha" && row.Ready }, worker)
		took = append(took, time.Since(cut)-patience)
		require.NoError(b, s.Start(b.Context(), lost))
		s.waitRows(replaceTime, "it is a worker, and Ready", func(row lab.NodeStatus) bool { return row.Role == "worker" && row.Ready }, lost)
	}
	timeRow(b, "power of a master is cut, until a worker serves in its place, beyond replace_after; site of 4 with Kubernetes (the stand-in)", took, 0)
}

// BenchmarkIdleWithRelay watches the links of a site where two nodes reach each other through a third.
func BenchmarkIdleWithRelay(b *testing.B) {
	const window = time.Minute
	config := newConfig(b)
	config.NoK3s, config.MinimumNodes, config.Bootstrap = true, 4, []string{"/dns4/n1.lab/udp/4847/quic-v1"}
	s := site(b, 4, config, withoutK3sBinary, func(o *lab.Options) {
		o.NAT = map[string]lab.NAT{"n3": lab.NATSymmetric, "n4": lab.NATSymmetric}
	})
	s.waitReady(formTime)
	s.waitAllAlive()
	s.waitPaths("n3", "n4", "relay")
	nodes := []struct {
		name, what string
		rates      []int
	}{{name: "n1", what: "the node that relays"}, {name: "n2", what: "a node that reaches all directly"}, {name: "n3", what: "a node behind a symmetric router"}}
	for b.Loop() {
		before := make([]int, len(nodes))
		for i, n := range nodes {
			before[i] = s.through(n.name)
		}
		time.Sleep(window)
		for i, n := range nodes {
			nodes[i].rates = append(n.rates, (s.through(n.name)-before[i])/int(window.Seconds()))
		}
	}
	s.waitPaths("n3", "n4", "relay")
	for _, n := range nodes {
		result := fmt.Sprintf("%.2f kB/s (%.2f)", float64(section.Quantile(n.rates, 0.5))/1000, float64(section.Quantile(n.rates, 0.95))/1000)
		faultRow(b, "idle site of 4, two of them behind symmetric routers, bytes both ways on the link of "+n.what+", a minute a run", len(n.rates), result, "", true)
	}
}
