package suite

import (
	"context"
	"fmt"

	"github.com/muster-edge/muster/e2e/bench/report"
	"github.com/muster-edge/muster/e2e/bench/throughput"
)

func (s *session) throughput(ctx context.Context) section {
	var rows []report.Throughput
	for _, name := range Contestants {
		row := report.Throughput{Peer: name, Version: s.version(name)}
		if s.contests(name) && ctx.Err() == nil {
			s.progress("%s: throughput between two nodes", name)
			row.Result.Asked = true
			row.Result.Value, row.Result.Err = throughput.Measure(ctx, s.contestant(name, false), s.Throughput, s.progress)
			if row.Result.Err != nil {
				s.failed(row.Result.Err)
			}
		}
		rows = append(rows, row)
	}
	table, bars := report.ThroughputTable(rows)
	return section{
		name:  "throughput",
		title: "TCP throughput and latency between two nodes",
		about: fmt.Sprintf("Two network namespaces on one bridge; `iperf3 -t %d`, one stream, median of %d; `ping -c %d -i 0.01`, "+
			"the line otherwise idle. EdgeVPN and Nebula with their default MTU, wireguard-go with 1420.",
			int(s.Throughput.Length.Seconds()), s.Throughput.Runs, s.Throughput.Pings),
		table: table,
		bars:  bars,
	}
}
