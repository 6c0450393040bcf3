package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/muster-edge/muster/p2p"
)

// Until names a step that a site takes on its way.
type Until string

const (
	UntilSeen  Until = "seen"  // every live agent lists all live nodes, and has a path to each
	UntilRoles Until = "roles" // every node has a role and an address
	UntilReady Until = "ready" // every node is ready in its role
)

// steps are all of them, in the order in which a site takes them.
var steps = []Until{UntilSeen, UntilRoles, UntilReady}

func (u Until) valid() bool { return slices.Contains(steps, u) }

// reached returns the steps that a node has taken by what its own agent lists, in a lab with that many live nodes.
func reached(rows []Row, nodes int) []Until {
	own := ownRow(rows)
	if own == nil {
		return nil
	}
	var taken []Until
	if visible(rows) >= nodes {
		taken = append(taken, UntilSeen)
	}
	if own.Role != "" && own.Address != "" {
		taken = append(taken, UntilRoles)
	}
	if own.Ready {
		taken = append(taken, UntilReady)
	}
	return taken
}

func visible(rows []Row) int {
	count := 0
	for _, row := range rows {
		if row.Path != "none" && row.Path != "" {
			count++
		}
	}
	return count
}

// Timeline is DIR/timeline.json: how long each step took, in seconds since the agents were started.
type Timeline struct {
	Started time.Time                `json:"started"` // when the first agent was started
	Nodes   map[string]*NodeTimeline `json:"nodes"`
	Site    map[Until]float64        `json:"site"` // when the last node got there
}

// NodeTimeline is a node's part of the timeline.
type NodeTimeline struct {
	AgentStarted float64           `json:"agent_started"`
	Reached      map[Until]float64 `json:"reached"`
}

// waitInterval is how long to leave agents alone between two questions.
const waitInterval = 250 * time.Millisecond

// WaitUntil waits until every node that has power and an agent has got as far as goal, and writes DIR/timeline.json. Each change
// goes to progress as a line. After timeout it writes there what each node waits for, and returns ErrTimeout.
func (l *Lab) WaitUntil(ctx context.Context, goal Until, timeout time.Duration, progress io.Writer) error {
	if !goal.valid() {
		return fmt.Errorf("%w: until %q: want %s, %s or %s", ErrUsage, goal, UntilSeen, UntilRoles, UntilReady)
	}
	if progress == nil {
		progress = io.Discard
	}
	late := fmt.Errorf("wait until %s: %w after %s", goal, ErrTimeout, timeout)
	waitCtx, cancel := context.WithTimeoutCause(ctx, timeout, late)
	defer cancel()
	s, err := loadState(l.dir)
	if err != nil {
		return err
	}
	w := &watch{lab: l, goal: goal, progress: progress, told: map[string]string{}, timeline: newTimeline(s)}
	err = w.run(waitCtx)
	if werr := w.save(); werr != nil {
		err = errors.Join(err, werr)
	}
	if errors.Is(err, ErrTimeout) {
		l.tellWhy(ctx, w.pending, progress)
	}
	return err
}

// watch follows a site on its way to a goal.
type watch struct {
	lab      *Lab
	goal     Until
	progress io.Writer
	timeline *Timeline

	mu      sync.Mutex
	told    map[string]string // last line about each node
	pending []*node           // nodes that are not there yet
}

func newTimeline(s *state) *Timeline {
	t := &Timeline{Nodes: map[string]*NodeTimeline{}, Site: map[Until]float64{}}
	for _, n := range s.Nodes {
		if n.Init.alive() && !n.AgentStarted.IsZero() && (t.Started.IsZero() || n.AgentStarted.Before(t.Started)) {
			t.Started = n.AgentStarted
		}
	}
	if t.Started.IsZero() {
		t.Started = time.Now()
	}
	return t
}

// run asks only nodes that are not there yet, until none is left.
func (w *watch) run(ctx context.Context) error {
	for {
		s, err := loadState(w.lab.dir)
		if err != nil {
			return fmt.Errorf("wait until %s: %w", w.goal, err)
		}
		var live []*node
		for _, n := range s.Nodes {
			if n.Init.alive() {
				live = append(live, n)
			}
		}
		if len(live) == 0 {
			return fmt.Errorf("wait until %s: no node has power", w.goal)
		}
		w.pending = w.pending[:0]
		for _, n := range live {
			if !w.done(n) {
				w.pending = append(w.pending, n)
			}
		}
		if len(w.pending) == 0 {
			w.finish()
			return nil
		}
		var asking errgroup.Group
		for _, n := range w.pending {
			asking.Go(func() error {
				w.look(ctx, n, len(live))
				return nil
			})
		}
		_ = asking.Wait() // none fails: a node that does not answer stays pending
		if err := pause(ctx, waitInterval); err != nil {
			return err
		}
	}
}

func (w *watch) look(ctx context.Context, n *node, live int) {
	rows, err := agentRows(ctx, n)
	at := time.Since(w.timeline.Started).Seconds()
	w.mu.Lock()
	defer w.mu.Unlock()
	line := "the agent does not answer yet"
	if err == nil {
		line = describe(rows, live)
		t := w.timeline.Nodes[n.Name]
		if t == nil {
			t = &NodeTimeline{AgentStarted: n.AgentStarted.Sub(w.timeline.Started).Seconds(), Reached: map[Until]float64{}}
			w.timeline.Nodes[n.Name] = t
		}
		for _, step := range reached(rows, live) {
			if _, known := t.Reached[step]; !known {
				t.Reached[step] = at
			}
		}
	}
	if w.told[n.Name] != line && ctx.Err() == nil {
		w.told[n.Name] = line
		fmt.Fprintf(w.progress, "%7.1fs  %-4s %s\n", at, n.Name, line)
	}
}

func (w *watch) done(n *node) bool {
	t := w.timeline.Nodes[n.Name]
	if t == nil {
		return false
	}
	_, there := t.Reached[w.goal]
	return there
}

func (w *watch) finish() {
	for _, step := range steps {
		last, all := 0.0, true
		for _, t := range w.timeline.Nodes {
			at, there := t.Reached[step]
			all = all && there
			last = max(last, at)
		}
		if all {
			w.timeline.Site[step] = last
		}
	}
	fmt.Fprintf(w.progress, "%7.1fs  all nodes: %s\n", w.timeline.Site[w.goal], w.goal)
}

func (w *watch) save() error {
	raw, err := json.MarshalIndent(w.timeline, "", "  ")
	if err == nil {
		err = p2p.WriteFile(filepath.Join(w.lab.dir, "timeline.json"), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write timeline: %w", err)
	}
	return nil
}

func describe(rows []Row, live int) string {
	own := ownRow(rows)
	if own == nil {
		return "the agent does not list itself yet"
	}
	parts := []string{own.Phase, fmt.Sprintf("sees %d of %d", visible(rows), live)}
	for _, part := range []string{own.Hostname, own.Role, own.Address} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if own.Ready {
		parts = append(parts, "ready")
	}
	return strings.Join(parts, ", ")
}

func (l *Lab) tellWhy(ctx context.Context, nodes []*node, progress io.Writer) {
	for _, n := range nodes {
		text, err := l.Why(ctx, n.Name)
		if err != nil {
			text = err.Error()
		}
		for line := range strings.Lines(strings.TrimSpace(text)) {
			fmt.Fprintf(progress, "%s: %s\n", n.Name, strings.TrimRight(line, "\n"))
		}
	}
}

// waitForAnswer returns when the agent of n answers.
func (l *Lab) waitForAnswer(ctx context.Context, n *node) error {
	ctx, cancel := context.WithTimeoutCause(ctx, l.opts.Timeout, ErrTimeout)
	defer cancel()
	for {
		rows, err := agentRows(ctx, n)
		if err == nil && ownRow(rows) != nil {
			return nil
		}
		if perr := pause(ctx, waitInterval); perr != nil {
			return fmt.Errorf("wait for the agent of %s: %w: %w", n.Name, perr, err)
		}
	}
}
