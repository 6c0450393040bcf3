// Package report turns measurements into the tables of docs/BENCHMARKS.md and judges them by the project's bars.
package report

import "fmt"

// The bars of the project, each with the measurement that it judges. They are reported, never asserted: a busy machine
// misses some of them through nobody's fault.
const (
	// BarNodes is the size of the site that the bars of convergence and of idle cost are about.
	BarNodes = 10
	// barConvergence is the part of EdgeVPN's time that Muster may take.
	barConvergence = 0.1
	// barWireGuard is the part of wireguard-go's throughput that Muster has to reach.
	barWireGuard = 0.9
	// barEdgeVPN is the multiple of EdgeVPN's throughput that Muster has to reach.
	barEdgeVPN = 60
	// barIdle is what a node of an idle site may send and receive, in bytes per second.
	barIdle = 2000
	// barMemory is the resident set that an agent may have, in bytes.
	barMemory = 60e6
)

// Verdict is how a bar was met.
type Verdict string

// The verdicts.
const (
	Pass        Verdict = "PASS"
	Fail        Verdict = "FAIL"
	NotMeasured Verdict = "not measured"
)

// Bar is one judgement.
type Bar struct {
	Name    string
	Verdict Verdict
}

// String returns the bar as it stands in a table.
func (b Bar) String() string { return fmt.Sprintf("%s: %s", b.Name, b.Verdict) }

func judge(name string, measured, met bool) Bar {
	switch {
	case !measured:
		return Bar{name, NotMeasured}
	case met:
		return Bar{name, Pass}
	default:
		return Bar{name, Fail}
	}
}

// Measured is a result, or why there is none. The zero value says that it was not asked for.
type Measured[T any] struct {
	Value T
	Err   error
	Asked bool
}

// OK tells whether there is a result.
func (m Measured[T]) OK() bool { return m.Asked && m.Err == nil }

// show formats a result, and has words for one that is missing.
func show[T any](m Measured[T], format func(T) string) string {
	switch {
	case m.OK():
		return format(m.Value)
	case m.Asked:
		return "not measured"
	default:
		return "–"
	}
}
