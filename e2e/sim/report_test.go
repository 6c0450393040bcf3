package sim

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/section"
)

// BenchmarkConvergence is the table of docs/BENCHMARKS.md: virtual time and bytes over the number of nodes. `make bench-sim`
// runs it, and writes the section when MUSTER_BENCH_OUT names the file.
func BenchmarkConvergence(b *testing.B) {
	const (
		rounds   = 20
		barNodes = 1000
		bar      = 15 * time.Second
	)
	verdict := ""
	var table strings.Builder
	table.WriteString("| nodes | histories | site founded | all have role and address, median (p95) | a decision is held by all, median (p95) | … 10 % loss | … coordinator lost | sent per node until then | idle, per node |\n")
	table.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for range b.N {
		for _, nodes := range []int{3, 5, 10, 30, 100, 300, 1000} {
			var founded, placed, held, lossy, lost []time.Duration
			var sent, idle float64
			for seed := range uint64(rounds) {
				r := Run(Config{Seed: seed + 1, Nodes: nodes, Decision: true, Idle: seed == 0})
				require.Empty(b, r.Violations, "MUSTER_SIM_SEED=%d", seed+1)
				founded, placed, held = append(founded, r.Founded), append(placed, r.Placed), append(held, r.Held)
				sent += float64(r.Gossip+r.Founding+r.Ledger) / float64(nodes) / float64(rounds)
				idle += r.Idle
				lossy = append(lossy, Run(Config{Seed: seed + 1, Nodes: nodes, Settled: true, Decision: true, Loss: 0.1}).Held)
				lost = append(lost, Run(Config{Seed: seed + 1, Nodes: nodes, Settled: true, Decision: true, CoordinatorLost: true}).Held)
			}
			fmt.Fprintf(&table, "| %d | %d | %s | %s | %s | %s | %s | %.0f kB | %.2f kB/s |\n", nodes, rounds,
				section.Spread(founded), section.Spread(placed), section.Spread(held), section.Spread(lossy), section.Spread(lost), sent/1e3, idle/1e3)
			if nodes == barNodes {
				verdict = fmt.Sprintf("\nBar: %d nodes hold a decision within %s: the slowest of %d took %.2f s: ", nodes, bar, rounds, slices.Max(held).Seconds())
				if slices.Max(held) <= bar && slices.Min(held) > 0 {
					verdict += "PASS\n"
				} else {
					verdict += "FAIL\n"
					b.Error(verdict)
				}
			}
		}
	}
	table.WriteString(verdict)
	b.Logf("\n%s", table.String())
	if path := os.Getenv("MUSTER_BENCH_OUT"); path != "" {
		require.NoError(b, section.Write(path, "simulation", about+"\n"+table.String(), "make bench-sim"))
	}
}

const about = `## Convergence and bytes in simulation

Virtual time (package e2e/sim: the planner and the founding machine as they are, models of gossip, Raft and streams): machines are
switched on within 3 s, packets take 1 ms, three masters, no Kubernetes. From the first power-on; a decision from its
proposal. "Coordinator lost" cuts its power just before.
`
