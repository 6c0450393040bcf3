package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Row is one row of `muster nodes -o json` (DESIGN §14).
type Row struct {
	ID         string `json:"id"`
	Hostname   string `json:"hostname"`
	Role       string `json:"role"`
	Address    string `json:"address"`
	Phase      string `json:"phase"`
	Ready      bool   `json:"ready"`
	Path       string `json:"path"`
	Version    string `json:"version"`
	Slot       string `json:"slot"`
	Image      string `json:"image"`
	LastSeen   any    `json:"last_seen"` // passed on as the agent wrote it
	Reason     string `json:"reason"`
	K3sVersion string `json:"k3s_version"`
}

// Phases that the lab itself writes, for a node whose agent cannot be asked.
const (
	PhaseDown     = "down"     // no power, or no agent
	PhaseStarting = "starting" // the agent runs and does not answer yet
)

// NodeStatus is what a node's own agent says about it, and what the lab knows.
type NodeStatus struct {
	Node string `json:"node"`
	Row
	PID      int    `json:"pid"`       // of the node's PID 1, as the host counts; 0 when it is off
	AgentPID int    `json:"agent_pid"` // of the agent, as the host counts; 0 when it does not run
	NetNS    string `json:"netns"`     // path of the node's network namespace; empty when it is off
	Underlay string `json:"underlay"`  // address on eth0
}

// answerTimeout bounds how long one agent may take for an answer.
const answerTimeout = 10 * time.Second

// Status asks every node's own agent and returns one row per node, in the order of their numbers. A node that cannot answer has
// a row too, with the phase down or starting and the reason.
func (l *Lab) Status(ctx context.Context) ([]NodeStatus, error) {
	s, err := loadState(l.dir)
	if err != nil {
		return nil, err
	}
	rows := make([]NodeStatus, len(s.Nodes))
	var asking errgroup.Group
	for i, n := range s.Nodes {
		asking.Go(func() error {
			rows[i] = l.status(ctx, s, n)
			return nil
		})
	}
	_ = asking.Wait() // none fails: what goes wrong is in the row
	return rows, ctx.Err()
}

func (l *Lab) status(ctx context.Context, s *state, n *node) NodeStatus {
	row := NodeStatus{Node: n.Name, Underlay: n.addr(s.Subnet).String(), Row: Row{Phase: PhaseDown}}
	if !n.Init.alive() {
		row.Reason = "the node has no power"
		return row
	}
	row.PID, row.NetNS = n.Init.PID, netNSPath(n.Init)
	answer, err := l.ask(ctx, n, request{Op: opStatus})
	if err != nil {
		row.Reason = err.Error()
		return row
	}
	if answer.Agent == 0 {
		row.Reason = strings.TrimSuffix("the agent does not run: "+answer.Ended, ": ")
		return row
	}
	row.AgentPID = hostPID(n.Init, answer.Agent)
	rows, err := agentRows(ctx, n)
	if err != nil {
		row.Phase, row.Reason = PhaseStarting, err.Error()
		return row
	}
	own := ownRow(rows)
	if own == nil {
		row.Phase, row.Reason = PhaseStarting, "the agent does not list itself"
		return row
	}
	row.Row = *own
	return row
}

// Seen returns what the agent of one node lists: what `muster nodes -o json` prints there.
func (l *Lab) Seen(ctx context.Context, name string) ([]Row, error) {
	_, n, err := l.find(name)
	if err != nil {
		return nil, err
	}
	return agentRows(ctx, n)
}

// apiSocket is where an agent answers in its own node. It is asked there and not by `muster nodes`: the start of a process per
// node and question was most of what a machine did while it waited for a site.
const apiSocket = "/run/muster/muster.sock"

// agentRows returns what the agent of a node lists.
func agentRows(ctx context.Context, n *node) ([]Row, error) {
	if !n.Init.alive() {
		return nil, fmt.Errorf("%s: %w", n.Name, ErrNodeDown)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errors.New("the agent does not answer"))
	defer cancel()
	var rows []Row
	if err := askAPI(ctx, fmt.Sprintf("/proc/%d/root%s", n.Init.PID, apiSocket), "/v1/nodes", &rows); err != nil {
		return nil, fmt.Errorf("%s: ask its agent: %w", n.Name, err)
	}
	return rows, nil
}

func askAPI(ctx context.Context, socket, path string, answer any) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://muster"+path, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return errors.Unwrap(err) // less the URL, which nobody gave
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return json.NewDecoder(response.Body).Decode(answer)
}

// Why returns what `muster why` prints in a node.
func (l *Lab) Why(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errors.New("the agent does not answer"))
	defer cancel()
	return l.Exec(ctx, name, agentPath, "why")
}

func ownRow(rows []Row) *Row {
	for i := range rows {
		if rows[i].Path == "self" {
			return &rows[i]
		}
	}
	return nil
}
