// Package idle measures what a site costs that has nothing to do: traffic on each node's underlay, memory and
// goroutines of each agent.
package idle

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/muster-edge/muster/e2e/bench/lan"
	"github.com/muster-edge/muster/e2e/bench/peer"
	"github.com/muster-edge/muster/e2e/bench/procfs"
)

// Options say when and how long is measured.
type Options struct {
	Settle time.Duration // from the last address
	Window time.Duration
}

// Result holds one figure for each node.
type Result struct {
	BytesPerSecond []float64 // received and sent on the underlay together
	RSS            []float64 // bytes, at the end of the window
	PeakRSS        []float64 // bytes
	Goroutines     []float64 // nil where the agent does not tell
}

// Mean returns the mean of figures, 0 for none.
func Mean(figures []float64) float64 {
	if len(figures) == 0 {
		return 0
	}
	var sum float64
	for _, figure := range figures {
		sum += figure
	}
	return sum / float64(len(figures))
}

// Worst returns the highest of figures, 0 for none.
func Worst(figures []float64) float64 {
	if len(figures) == 0 {
		return 0
	}
	return slices.Max(figures)
}

// Measure watches a peer whose nodes are all joined.
func Measure(ctx context.Context, p peer.Peer, nodes int, options Options) (Result, error) {
	if err := pause(ctx, options.Settle); err != nil {
		return Result{}, fmt.Errorf("%s: let the site settle: %w", p.Name(), err)
	}
	agents := make([]int, nodes)
	for i := range agents {
		agent, err := p.Process(ctx, i+1)
		if err != nil {
			return Result{}, fmt.Errorf("%s: find agent of node %d: %w", p.Name(), i+1, err)
		}
		agents[i] = agent
	}
	before, err := sample(agents)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", p.Name(), err)
	}
	if err := pause(ctx, options.Window); err != nil {
		return Result{}, fmt.Errorf("%s: watch the idle site: %w", p.Name(), err)
	}
	after, err := sample(agents)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", p.Name(), err)
	}
	result := Result{}
	for i, agent := range agents {
		result.BytesPerSecond = append(result.BytesPerSecond, rate(before[i], after[i]))
		memory, err := procfs.ReadMemory(agent)
		if err != nil {
			return Result{}, fmt.Errorf("%s: node %d: %w", p.Name(), i+1, err)
		}
		result.RSS = append(result.RSS, float64(memory.RSS))
		result.PeakRSS = append(result.PeakRSS, float64(memory.Peak))
	}
	if teller, ok := p.(peer.Goroutines); ok {
		for i := range agents {
			goroutines, err := teller.Goroutines(ctx, i+1)
			if err != nil {
				return Result{}, err
			}
			result.Goroutines = append(result.Goroutines, float64(goroutines))
		}
	}
	return result, nil
}

// reading is a node's counter and when it was read: reading twenty nodes takes a while.
type reading struct {
	bytes uint64
	at    time.Time
}

func rate(before, after reading) float64 {
	return float64(after.bytes-before.bytes) / after.at.Sub(before.at).Seconds()
}

func sample(agents []int) ([]reading, error) {
	readings := make([]reading, len(agents))
	for i, agent := range agents {
		err := lan.Inside(fmt.Sprintf("/proc/%d/ns/net", agent), func() (err error) {
			readings[i], err = read()
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read traffic of node %d: %w", i+1, err)
		}
	}
	return readings, nil
}

// read counts the traffic of every Ethernet link of the namespace that the thread is in. That is the underlay,
// whatever it is called: loopback and the devices of a VPN have no hardware address.
func read() (reading, error) {
	content, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return reading{}, err
	}
	r := reading{at: time.Now()}
	traffic, err := procfs.ParseNetDev(content)
	if err != nil {
		return reading{}, err
	}
	links, err := net.Interfaces()
	if err != nil {
		return reading{}, err
	}
	found := false
	for _, link := range links {
		if len(link.HardwareAddr) != 6 || link.Flags&net.FlagLoopback != 0 {
			continue
		}
		found = true
		r.bytes += traffic[link.Name].Total()
	}
	if !found {
		return reading{}, errors.New("no Ethernet link")
	}
	return r, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
