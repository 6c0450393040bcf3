package suite

import (
	"context"
	"fmt"

	"github.com/muster-edge/muster/e2e/bench/peer"
	"github.com/muster-edge/muster/e2e/bench/report"
	"github.com/muster-edge/muster/e2e/bench/throughput"
)

func (s *session) throughput(ctx context.Context) section {
	var peers []peer.Peer
	for _, name := range Contestants {
		if s.contests(name) {
			peers = append(peers, s.contestant(name, false))
		}
	}
	s.progress("throughput between two nodes")
	measured := map[string]report.Measured[throughput.Result]{}
	for i, outcome := range throughput.Measure(ctx, peers, s.Throughput, s.progress) {
		measured[peers[i].Name()] = report.Measured[throughput.Result]{Value: outcome.Result, Err: outcome.Err, Asked: true}
		if outcome.Err != nil {
			s.failures = append(s.failures, outcome.Err) // progress has told already
		}
	}
	var rows []report.Throughput
	for _, name := range Contestants {
		rows = append(rows, report.Throughput{Peer: name, Version: s.version(name), Result: measured[name]})
	}
	table, bars := report.ThroughputTable(rows)
	return section{
		name:  "throughput",
		title: "TCP throughput and latency between two nodes",
		about: fmt.Sprintf("Two network namespaces on one bridge; `iperf3 -t %d`, one stream, and `ping -c %d -i 0.01` on the idle line, "+
			"in %d rounds of all peers; the figures are medians. EdgeVPN and Nebula with their default MTU, wireguard-go with 1420.",
			int(s.Throughput.Length.Seconds()), s.Throughput.Pings, s.Throughput.Rounds),
		table: table,
		bars:  bars,
	}
}
