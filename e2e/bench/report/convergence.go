package report

import (
	"fmt"
	"time"
)

// Convergence is one row: how long so many nodes took.
type Convergence struct {
	Nodes           int
	Muster, EdgeVPN Measured[time.Duration]
}

// ConvergenceTable renders the rows, and judges the one of BarNodes.
func ConvergenceTable(rows []Convergence) (string, []Bar) {
	t := table{head: []string{"nodes", "Muster: role and address", "EdgeVPN `--dhcp`: address", "EdgeVPN / Muster", "bar"}}
	var bars []Bar
	for _, row := range rows {
		both := row.Muster.OK() && row.EdgeVPN.OK()
		ratio, verdict := "–", ""
		if both {
			ratio = fmt.Sprintf("%.1f", row.EdgeVPN.Value.Seconds()/row.Muster.Value.Seconds())
		}
		if row.Nodes == BarNodes && row.Muster.Asked {
			met := row.Muster.Value.Seconds() <= barConvergence*row.EdgeVPN.Value.Seconds()
			bar := judge(fmt.Sprintf("%d nodes in 1/10 of EdgeVPN's time", BarNodes), both, met)
			bars = append(bars, bar)
			verdict = bar.String()
		}
		t.add(fmt.Sprint(row.Nodes), show(row.Muster, seconds), show(row.EdgeVPN, seconds), ratio, verdict)
	}
	return t.String(), bars
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
