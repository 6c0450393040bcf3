package throughput

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// Latency is the round trip that ping saw.
type Latency struct {
	Min, Avg, Max time.Duration
	Lost          float64 // percent
}

var (
	pingLoss  = regexp.MustCompile(`(?m), ([0-9.]+)% packet loss`)
	pingTimes = regexp.MustCompile(`(?m)^rtt min/avg/max/mdev = ([0-9.]+)/([0-9.]+)/([0-9.]+)/[0-9.]+ ms`)
)

// parsePing reads the summary that `ping -q` of iputils prints.
func parsePing(summary []byte) (Latency, error) {
	loss, times := pingLoss.FindSubmatch(summary), pingTimes.FindSubmatch(summary)
	if loss == nil || times == nil {
		return Latency{}, fmt.Errorf("parse ping summary: no figures in %q", summary)
	}
	var figures [4]float64
	for i, text := range [][]byte{loss[1], times[1], times[2], times[3]} {
		figure, err := strconv.ParseFloat(string(text), 64)
		if err != nil {
			return Latency{}, fmt.Errorf("parse ping summary: %w", err)
		}
		figures[i] = figure
	}
	milliseconds := func(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }
	return Latency{
		Lost: figures[0],
		Min:  milliseconds(figures[1]),
		Avg:  milliseconds(figures[2]),
		Max:  milliseconds(figures[3]),
	}, nil
}
