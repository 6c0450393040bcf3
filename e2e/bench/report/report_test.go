package report

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/bench/idle"
	"github.com/muster-edge/muster/e2e/bench/throughput"
)

var update = flag.Bool("update", false, "write the golden files anew")

func requireGolden(t *testing.T, name, got string) {
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func measured[T any](value T) Measured[T] { return Measured[T]{Value: value, Asked: true} }

func unmeasured[T any]() Measured[T] { return Measured[T]{Err: errors.New("no tun"), Asked: true} }

func verdicts(bars []Bar) []Verdict {
	var list []Verdict
	for _, bar := range bars {
		list = append(list, bar.Verdict)
	}
	return list
}

func speed(gigabits ...float64) Measured[throughput.Result] {
	r := throughput.Result{Pings: []throughput.Latency{{Avg: 320 * time.Microsecond, Max: 1500 * time.Microsecond}}}
	for _, figure := range gigabits {
		r.Streams = append(r.Streams, figure*1e9)
	}
	return measured(r)
}

func TestConvergenceTable(t *testing.T) {
	table, bars := ConvergenceTable([]Convergence{
		{Nodes: 3, Muster: measured(2100 * time.Millisecond), EdgeVPN: unmeasured[time.Duration]()},
		{Nodes: 10, Muster: measured(9600 * time.Millisecond), EdgeVPN: measured(96 * time.Second)},
		{Nodes: 20, Muster: measured(14 * time.Second)},
	})
	requireGolden(t, "convergence.md", table)
	require.Equal(t, []Verdict{Pass}, verdicts(bars))
}

func TestConvergenceIsJudgedAtTenNodesInTheSameRunOnly(t *testing.T) {
	for want, row := range map[Verdict]Convergence{
		Pass:        {Nodes: 10, Muster: measured(9600 * time.Millisecond), EdgeVPN: measured(96 * time.Second)},
		Fail:        {Nodes: 10, Muster: measured(9601 * time.Millisecond), EdgeVPN: measured(96 * time.Second)},
		NotMeasured: {Nodes: 10, Muster: measured(time.Second)},
	} {
		_, bars := ConvergenceTable([]Convergence{row})
		require.Equal(t, []Verdict{want}, verdicts(bars))
	}
	for _, row := range []Convergence{
		{Nodes: 5, Muster: measured(time.Second), EdgeVPN: measured(time.Second)},
		{Nodes: 10, EdgeVPN: measured(time.Second)},
	} {
		_, bars := ConvergenceTable([]Convergence{row})
		require.Empty(t, bars)
	}
}

func TestThroughputTable(t *testing.T) {
	table, bars := ThroughputTable([]Throughput{
		{Peer: "veth", Result: speed(13.6)},
		{Peer: "edgevpn", Version: "v0.35.3", Result: speed(0.026, 0.025, 0.027)},
		{Peer: "nebula", Version: "v1.10.3", Result: unmeasured[throughput.Result]()},
		{Peer: "wireguard-go", Version: "v0.0.0", Result: speed(2.61, 2.8, 2.66)},
		{Peer: "muster", Version: "abc1234", Result: speed(2.5, 2.6, 1.9)},
	})
	requireGolden(t, "throughput.md", table)
	require.Equal(t, []Verdict{Pass, Pass}, verdicts(bars))
}

func TestThroughputIsJudgedByBothPeers(t *testing.T) {
	edgevpn := Throughput{Peer: "edgevpn", Result: speed(0.025)}
	wireguard := Throughput{Peer: "wireguard-go", Result: speed(2)}
	for name, c := range map[string]struct {
		rows []Throughput
		want []Verdict
	}{
		"just enough of both": {[]Throughput{edgevpn, wireguard, {Peer: "muster", Result: speed(1.8)}}, []Verdict{Pass, Pass}},
		"slower than both":    {[]Throughput{edgevpn, wireguard, {Peer: "muster", Result: speed(1.4)}}, []Verdict{Fail, Fail}},
		"one peer missing":    {[]Throughput{wireguard, {Peer: "muster", Result: speed(1.8)}}, []Verdict{Pass, NotMeasured}},
		"muster fails":        {[]Throughput{edgevpn, wireguard, {Peer: "muster", Result: unmeasured[throughput.Result]()}}, []Verdict{NotMeasured, NotMeasured}},
		"muster not asked":    {[]Throughput{edgevpn, wireguard, {Peer: "muster"}}, nil},
	} {
		_, bars := ThroughputTable(c.rows)
		require.Equal(t, c.want, verdicts(bars), name)
	}
}

func TestLatencyTellsLoss(t *testing.T) {
	require.Equal(t, "1.000 ms (2.00), 1.5 % lost", latency(throughput.Latency{Avg: time.Millisecond, Max: 2 * time.Millisecond, Lost: 1.5}))
}

func TestIdleTable(t *testing.T) {
	muster := idle.Result{
		BytesPerSecond: []float64{900, 1500, 2400},
		RSS:            []float64{40e6, 44e6, 48e6},
		PeakRSS:        []float64{50e6, 61e6, 55e6},
		Goroutines:     []float64{120, 130, 170},
	}
	edgevpn := idle.Result{BytesPerSecond: []float64{79e3}, RSS: []float64{57e6}, PeakRSS: []float64{59e6}}
	table, bars := IdleTable(BarNodes, measured(muster), measured(edgevpn))
	requireGolden(t, "idle.md", table)
	require.Equal(t, []Verdict{Pass, Fail, Pass}, verdicts(bars))

	_, bars = IdleTable(3, measured(muster), measured(edgevpn))
	require.Empty(t, bars, "a site of another size is not judged")
	_, bars = IdleTable(BarNodes, unmeasured[idle.Result](), measured(edgevpn))
	require.Equal(t, []Verdict{NotMeasured, NotMeasured, NotMeasured}, verdicts(bars))
}

func TestSectionIsWrittenBetweenItsMarkersAndNowhereElse(t *testing.T) {
	first, err := Replace("", "idle", "\nold\n")
	require.NoError(t, err)
	require.Equal(t, opening+"\n<!-- bench:idle:begin -->\nold\n<!-- bench:idle:end -->\n", first)

	both, err := Replace(first+"\nWritten by hand.\n", "throughput", "fast")
	require.NoError(t, err)
	again, err := Replace(both, "idle", "new")
	require.NoError(t, err)
	require.Equal(t, opening+"\n<!-- bench:idle:begin -->\nnew\n<!-- bench:idle:end -->\n\nWritten by hand.\n\n"+
		"<!-- bench:throughput:begin -->\nfast\n<!-- bench:throughput:end -->\n", again)
	same, err := Replace(again, "idle", "new")
	require.NoError(t, err)
	require.Equal(t, again, same)
}

func TestDocumentWithBrokenMarkersIsRefused(t *testing.T) {
	for _, document := range []string{
		"<!-- bench:idle:begin -->\n",
		"<!-- bench:idle:end -->\n",
		"<!-- bench:idle:end --> <!-- bench:idle:begin -->\n",
	} {
		_, err := Replace(document, "idle", "new")
		require.ErrorContains(t, err, "its markers are not a pair", document)
	}
}

func TestMachineFacts(t *testing.T) {
	require.Equal(t, "Xeon", find("processor\t: 0\nmodel name\t: Xeon\nmodel name\t: other\n", "model name", ":"))
	require.Empty(t, find("processor\t: 0\n", "model name", ":"))
	size, ok := gibibytes("24620368 kB")
	require.True(t, ok)
	require.Equal(t, "23 GiB", size)
	for _, broken := range []string{"", "24 MB", "x kB"} {
		_, ok := gibibytes(broken)
		require.False(t, ok, broken)
	}
	require.Contains(t, Machine(), "go1.")
	require.Empty(t, value("/no/such/file", "key", ":"))
}

func FuzzReplace(f *testing.F) {
	f.Add("", "body")
	f.Add("# Title\n<!-- bench:idle:begin -->\nold\n<!-- bench:idle:end -->\n", "new")
	f.Add("<!-- bench:idle:end --><!-- bench:idle:begin -->", "new")
	f.Fuzz(func(t *testing.T, document, body string) {
		once, err := Replace(document, "idle", body)
		if err != nil {
			return
		}
		require.Contains(t, once, body[:0])
		if twice, err := Replace(once, "idle", body); err == nil {
			require.Equal(t, once, twice, "writing the same twice changes nothing")
		}
	})
}
