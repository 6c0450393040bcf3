// Package throughput measures what one TCP stream carries between two nodes of a peer, and how long a packet is under
// way.
package throughput

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-edge/muster/e2e/bench/lan"
	"github.com/muster-edge/muster/e2e/bench/peer"
)

// Options say how long is measured.
type Options struct {
	Rounds int           // the figures are the medians of so many
	Length time.Duration // of one stream, in whole seconds
	Pings  int           // in each round
	// Settle lets what peers do on first contact (path discovery, handshakes) end before they are measured.
	Settle time.Duration
}

// Result is what was measured on one peer, in the order of the rounds.
type Result struct {
	Streams []float64 // bits per second
	Pings   []Latency
}

// Speed returns the middle one of the streams, in bits per second.
func (r Result) Speed() float64 { return median(r.Streams) }

// Latency returns the round of pings whose average is the middle one.
func (r Result) Latency() Latency {
	if len(r.Pings) == 0 {
		return Latency{}
	}
	sorted := slices.SortedFunc(slices.Values(r.Pings), func(a, b Latency) int { return cmp.Compare(a.Avg, b.Avg) })
	return sorted[len(sorted)/2]
}

// Outcome is a Result, or why there is none.
type Outcome struct {
	Result Result
	Err    error
}

const (
	// joining bounds how long two nodes may take to reach each other: EdgeVPN needs up to a minute.
	joining = 3 * time.Minute
	// attempts is how often a stream may be tried: iperf3 over EdgeVPN sometimes loses its control connection.
	attempts = 3
)

// Measure starts two nodes of every peer, measures between them, and stops them. It goes round by round, every peer once in
// each, so that a machine that is busier for a while is so for all of them. A peer that fails drops out and leaves the
// others in.
func Measure(ctx context.Context, peers []peer.Peer, options Options, progress func(format string, args ...any)) []Outcome {
	outcomes := make([]Outcome, len(peers))
	targets := make([]netip.Addr, len(peers))
	each := func(do func(i int) error) {
		for i, p := range peers {
			if outcomes[i].Err == nil {
				if outcomes[i].Err = do(i); outcomes[i].Err != nil {
					progress("%s drops out: %v", p.Name(), outcomes[i].Err)
				}
			}
		}
	}
	each(func(i int) (err error) {
		progress("%s: two nodes start", peers[i].Name())
		if err := peers[i].Start(ctx, 2); err != nil {
			return err
		}
		targets[i], err = reach(ctx, peers[i])
		return err
	})
	settled := pause(ctx, options.Settle)
	for range options.Rounds {
		each(func(i int) error {
			if settled != nil {
				return settled
			}
			return round(ctx, peers[i], targets[i], options, &outcomes[i].Result, progress)
		})
	}
	for i, p := range peers {
		outcomes[i].Err = errors.Join(outcomes[i].Err, p.Stop())
	}
	return outcomes
}

func round(ctx context.Context, p peer.Peer, target netip.Addr, options Options, result *Result, progress func(string, ...any)) error {
	summary, err := run(p.Command(ctx, 1, "ping", "-q", "-c", strconv.Itoa(options.Pings), "-i", "0.01", target.String()))
	if err != nil {
		return fmt.Errorf("%s: measure latency: %w", p.Name(), err)
	}
	latency, err := parsePing(summary)
	if err != nil {
		return fmt.Errorf("%s: measure latency: %w", p.Name(), err)
	}
	speed, err := repeat(ctx, attempts, func() (float64, error) { return stream(ctx, p, target, options.Length) })
	if err != nil {
		return fmt.Errorf("%s: measure throughput: %w", p.Name(), err)
	}
	progress("%s: %.3f Gbit/s, ping %v", p.Name(), speed/1e9, latency.Avg)
	result.Pings = append(result.Pings, latency)
	result.Streams = append(result.Streams, speed)
	return nil
}

// reach waits until node 1 gets an answer from node 2 over the peer, and returns node 2's address.
func reach(ctx context.Context, p peer.Peer) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, joining)
	defer cancel()
	joined, err := p.Join(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	target := joined.Addresses[1]
	for {
		_, err := run(p.Command(ctx, 1, "ping", "-q", "-c", "1", "-W", "1", target.String()))
		if err == nil {
			return target, nil
		}
		if waited := pause(ctx, peer.Interval); waited != nil {
			return netip.Addr{}, fmt.Errorf("%s: node 1 does not reach node 2 at %s: %w", p.Name(), target, err)
		}
	}
}

// stream sends one TCP stream from node 1 to node 2 and returns its speed in bits per second.
func stream(ctx context.Context, p peer.Peer, target netip.Addr, length time.Duration) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, length+30*time.Second)
	defer cancel()
	server := p.Command(ctx, 2, "iperf3", "--server", "--one-off", "--forceflush", "--bind", target.String())
	printed, err := server.StdoutPipe()
	if err != nil {
		return 0, fmt.Errorf("start iperf3 server: %w", err)
	}
	if err := server.Start(); err != nil {
		return 0, fmt.Errorf("start iperf3 server: %w", err)
	}
	speed, err := client(ctx, p, target, length, bufio.NewScanner(printed))
	cancel() // a server whose client never came would wait for ever
	// How the server ended does not matter once the client has its figures, and is but an echo of the client's error.
	_ = server.Wait()
	return speed, err
}

func client(ctx context.Context, p peer.Peer, target netip.Addr, length time.Duration, server *bufio.Scanner) (float64, error) {
	listening := false
	for !listening && server.Scan() {
		listening = strings.HasPrefix(server.Text(), "Server listening on")
	}
	if !listening {
		return 0, errors.New("start iperf3 server: it ended before it listened")
	}
	report, err := run(p.Command(ctx, 1, "iperf3", "--client", target.String(), "--time", strconv.Itoa(int(length.Seconds())), "--json"))
	if err != nil {
		return 0, err
	}
	return parseIperf3(report)
}

func run(cmd *exec.Cmd) ([]byte, error) {
	printed, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w: %s", strings.Join(cmd.Args, " "), err, lan.Tail(printed))
	}
	return printed, nil
}

func repeat(ctx context.Context, times int, measure func() (float64, error)) (float64, error) {
	var failures []error
	for range times {
		figure, err := measure()
		if err == nil {
			return figure, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	return 0, errors.Join(failures...)
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

func median(figures []float64) float64 {
	if len(figures) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(figures))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
