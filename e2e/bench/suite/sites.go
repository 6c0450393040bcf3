package suite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-edge/muster/e2e/bench/convergence"
	"github.com/muster-edge/muster/e2e/bench/idle"
	"github.com/muster-edge/muster/e2e/bench/report"
)

// sites measures convergence and idle cost. One site of EdgeVPN takes minutes to form, so the idle site is the one
// whose convergence was measured.
func (s *session) sites(ctx context.Context) []section {
	took := map[string]map[int]report.Measured[time.Duration]{}
	quiet := map[string]report.Measured[idle.Result]{}
	wanted := map[string][]int{"edgevpn": s.EdgeVPNNodes, "muster": s.Nodes}
	for _, name := range Contestants {
		took[name] = map[int]report.Measured[time.Duration]{}
		if wanted[name] == nil || !s.contests(name) {
			continue
		}
		for _, nodes := range s.sizes(wanted[name]) {
			if ctx.Err() != nil {
				break
			}
			formed, rested := s.site(ctx, name, nodes)
			took[name][nodes] = formed
			if rested.Asked {
				quiet[name] = rested
			}
		}
	}
	var sections []section
	if s.measures("convergence") {
		sections = append(sections, s.convergenceSection(took))
	}
	if s.measures("idle") {
		sections = append(sections, s.idleSection(quiet))
	}
	return sections
}

// sizes returns the sizes of the sites to form: those whose convergence is measured, and the idle one.
func (s *session) sizes(wanted []int) []int {
	var sizes []int
	if s.measures("convergence") {
		sizes = append(sizes, wanted...)
	}
	if s.measures("idle") {
		sizes = append(sizes, s.IdleNodes)
	}
	slices.Sort(sizes)
	return slices.Compact(sizes)
}

func (s *session) site(ctx context.Context, name string, nodes int) (formed report.Measured[time.Duration], rested report.Measured[idle.Result]) {
	p := s.contestant(name, true)
	defer func() {
		if err := p.Stop(); err != nil {
			s.failed(err)
		}
	}()
	s.progress("%s: %d nodes start at once", name, nodes)
	took, err := convergence.Measure(ctx, p, nodes)
	formed = report.Measured[time.Duration]{Value: took, Err: err, Asked: true}
	if err != nil {
		s.failed(err)
	} else {
		s.progress("%s: %d nodes joined after %.1f s", name, nodes, took.Seconds())
	}
	if !s.measures("idle") || nodes != s.IdleNodes {
		return formed, rested
	}
	rested.Asked = true
	if err != nil {
		rested.Err = errors.New("the site did not form")
		return formed, rested
	}
	s.progress("%s: %d nodes idle for %v, after %v", name, nodes, s.Idle.Window, s.Idle.Settle)
	rested.Value, rested.Err = idle.Measure(ctx, p, nodes, s.Idle)
	if rested.Err != nil {
		s.failed(rested.Err)
		return formed, rested
	}
	s.progress("%s: %.2f kB/s per node, RSS %.1f MB", name, idle.Mean(rested.Value.BytesPerSecond)/1e3, idle.Mean(rested.Value.RSS)/1e6)
	return formed, rested
}

func (s *session) convergenceSection(took map[string]map[int]report.Measured[time.Duration]) section {
	sizes := slices.Concat(s.Nodes, s.EdgeVPNNodes)
	slices.Sort(sizes)
	var rows []report.Convergence
	for _, nodes := range slices.Compact(sizes) {
		row := report.Convergence{Nodes: nodes, Muster: took["muster"][nodes], EdgeVPN: took["edgevpn"][nodes]}
		if row.Muster.Asked || row.EdgeVPN.Asked {
			rows = append(rows, row)
		}
	}
	table, bars := report.ConvergenceTable(rows)
	return section{
		name:  "convergence",
		title: "Time until every node has its place",
		about: fmt.Sprintf("All nodes started at once, each in its own network namespace on one bridge, found by mDNS alone; from the start "+
			"of the first process until every node has an address, and for Muster a role (three masters) too, as each says itself. "+
			"EdgeVPN %s gives addresses only. K3s is off.", s.version("edgevpn")),
		table: table,
		bars:  bars,
	}
}

func (s *session) idleSection(quiet map[string]report.Measured[idle.Result]) section {
	table, bars := report.IdleTable(s.IdleNodes, quiet["muster"], quiet["edgevpn"])
	return section{
		name:  "idle",
		title: fmt.Sprintf("What an idle node costs, %d nodes", s.IdleNodes),
		about: fmt.Sprintf("Received and sent on the node's underlay link over %.0f s, from %.0f s after the last address. 1 kB is 1000 bytes, "+
			"1 MB is 10⁶. EdgeVPN does not tell its goroutines. K3s is off.", s.Idle.Window.Seconds(), s.Idle.Settle.Seconds()),
		table: table,
		bars:  bars,
	}
}
