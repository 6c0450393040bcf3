package report

import (
	"fmt"

	"github.com/muster-edge/muster/e2e/bench/idle"
)

// IdleTable renders what a node of an idle site costs. Only a site of BarNodes is judged.
func IdleTable(nodes int, muster, edgevpn Measured[idle.Result]) (string, []Bar) {
	var bars []Bar
	verdict := func(name string, limit float64, figure func(idle.Result) float64) string {
		if nodes != BarNodes || !muster.Asked {
			return ""
		}
		bar := judge(name, muster.OK(), muster.OK() && figure(muster.Value) < limit)
		bars = append(bars, bar)
		return bar.String()
	}
	t := table{head: []string{"per node", "Muster", "EdgeVPN", "bar"}}
	row := func(name string, figure func(idle.Result) float64, format func(float64) string, bar string) {
		text := func(r idle.Result) string { return format(figure(r)) }
		t.add(name, show(muster, text), show(edgevpn, text), bar)
	}
	traffic := func(r idle.Result) []float64 { return r.BytesPerSecond }
	memory := func(r idle.Result) []float64 { return r.RSS }
	peak := func(r idle.Result) []float64 { return r.PeakRSS }
	goroutines := func(r idle.Result) []float64 { return r.Goroutines }

	row("traffic, mean", mean(traffic), kilobytes, verdict("idle traffic < 2 kB/s, mean", barIdle, mean(traffic)))
	row("traffic, worst node", worst(traffic), kilobytes, verdict("idle traffic < 2 kB/s, worst node", barIdle, worst(traffic)))
	row("RSS, mean", mean(memory), megabytes, "")
	row("RSS, worst node", worst(memory), megabytes, verdict("agent RSS < 60 MB, worst node", barMemory, worst(memory)))
	row("highest RSS since start, worst node", worst(peak), megabytes, "")
	row("goroutines, mean", mean(goroutines), count, "")
	row("goroutines, worst node", worst(goroutines), count, "")
	return t.String(), bars
}

func mean(of func(idle.Result) []float64) func(idle.Result) float64 {
	return func(r idle.Result) float64 { return idle.Mean(of(r)) }
}

func worst(of func(idle.Result) []float64) func(idle.Result) float64 {
	return func(r idle.Result) float64 { return idle.Worst(of(r)) }
}

func kilobytes(bytesPerSecond float64) string { return fmt.Sprintf("%.2f kB/s", bytesPerSecond/1e3) }

func megabytes(bytes float64) string { return fmt.Sprintf("%.1f MB", bytes/1e6) }

// count shows a number of things; every Go program has at least one goroutine, so that none means nobody told.
func count(n float64) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f", n)
}
