package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/muster-edge/muster/e2e/bench/throughput"
)

// Throughput is one row: what one peer carries. Peer is the name of the peer as package peer has it.
type Throughput struct {
	Peer, Version string
	Result        Measured[throughput.Result]
}

// ThroughputTable renders the rows with their ratios to wireguard-go and to EdgeVPN, and judges Muster's.
func ThroughputTable(rows []Throughput) (string, []Bar) {
	medians := map[string]float64{}
	for _, row := range rows {
		if row.Result.OK() {
			medians[row.Peer] = row.Result.Value.Speed()
		}
	}
	t := table{head: []string{"peer", "Gbit/s", "rounds", "/ wireguard-go", "/ EdgeVPN", "ping avg (max)", "bar"}}
	var bars []Bar
	for _, row := range rows {
		overWireGuard, okWireGuard := ratio(medians, row.Peer, "wireguard-go")
		overEdgeVPN, okEdgeVPN := ratio(medians, row.Peer, "edgevpn")
		verdict := ""
		if row.Peer == "muster" && row.Result.Asked {
			judged := []Bar{
				judge(fmt.Sprintf("TCP ≥ %.1f of wireguard-go", barWireGuard), okWireGuard, overWireGuard >= barWireGuard),
				judge(fmt.Sprintf("TCP ≥ %d × EdgeVPN", barEdgeVPN), okEdgeVPN, overEdgeVPN >= barEdgeVPN),
			}
			verdict = join(judged)
			bars = append(bars, judged...)
		}
		t.add(
			strings.TrimSpace(row.Peer+" "+row.Version),
			show(row.Result, func(r throughput.Result) string { return gigabits(r.Speed()) }),
			show(row.Result, func(r throughput.Result) string { return each(r.Streams, gigabits) }),
			factor(overWireGuard, okWireGuard), factor(overEdgeVPN, okEdgeVPN),
			show(row.Result, func(r throughput.Result) string { return latency(r.Latency()) }),
			verdict,
		)
	}
	return t.String(), bars
}

func ratio(medians map[string]float64, of, to string) (float64, bool) {
	dividend, ok := medians[of]
	divisor, known := medians[to]
	if !ok || !known || divisor == 0 {
		return 0, false
	}
	return dividend / divisor, true
}

func factor(value float64, ok bool) string {
	switch {
	case !ok:
		return "–"
	case value >= 10:
		return fmt.Sprintf("%.0f", value)
	default:
		return fmt.Sprintf("%.2f", value)
	}
}

func gigabits(bitsPerSecond float64) string {
	if bitsPerSecond < 1e9 {
		return fmt.Sprintf("%.3f", bitsPerSecond/1e9)
	}
	return fmt.Sprintf("%.2f", bitsPerSecond/1e9)
}

func latency(l throughput.Latency) string {
	milliseconds := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	text := fmt.Sprintf("%.3f ms (%.2f)", milliseconds(l.Avg), milliseconds(l.Max))
	if l.Lost > 0 {
		text += fmt.Sprintf(", %g %% lost", l.Lost)
	}
	return text
}

func each(figures []float64, format func(float64) string) string {
	var texts []string
	for _, figure := range figures {
		texts = append(texts, format(figure))
	}
	return strings.Join(texts, " / ")
}
