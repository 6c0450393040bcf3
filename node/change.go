package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// ChangeRequest asks for a change of members.
type ChangeRequest struct {
	// Do is leave, remove or replace. Node is a host name or a peer ID, empty for
	// this node.
	Do   roles.Request `json:"do"`
	Node string        `json:"node"`
	// Since is the node's Tenure when it was asked: a later one says that it is done.
	Since *int `json:"since,omitempty"`
}

// Change is what `muster node leave|remove|replace -o json` shows.
type Change struct {
	Do       roles.Request `json:"do"`
	ID       string        `json:"id"`
	Hostname string        `json:"hostname"`
	Role     roles.Role    `json:"role"`
	// Tenure counts how often the node has begun a place anew.
	Tenure int `json:"tenure"`
	// Successor takes the place, empty for nobody.
	Successor string `json:"successor,omitempty"`
	// Effects are what it comes to, in sentences.
	Effects []string `json:"effects"`
	// State is planned, requested, running or done; Waiting says for what.
	State   string `json:"state"`
	Waiting string `json:"waiting,omitempty"`
}

// The states of a Change.
const (
	ChangePlanned   = "planned"
	ChangeRequested = "requested"
	ChangeRunning   = "running"
	ChangeDone      = "done"
)

// planChange says what a change would come to. An error that wraps ErrRefused says
// why it cannot be.
func (a *Agent) planChange(asked ChangeRequest) (Change, error) {
	a.mu.Lock()
	m := a.member
	a.mu.Unlock()
	if m == nil {
		return Change{}, errNoSite
	}
	view, state, err := m.view()
	if err != nil {
		return Change{}, err
	}
	id, err := m.changed(state, asked)
	if err != nil {
		return Change{}, err
	}
	c := Change{
		Do: asked.Do, ID: string(id), Hostname: m.name(id), Role: state.Roles[id], Tenure: state.Tenures[id].N, State: ChangePlanned,
	}
	if done := m.changeState(view, state, &c, asked.Since); done {
		return c, nil
	}
	in := m.explainInput(state)
	if why := roles.Refuses(in, id, asked.Do); why != "" && c.State == ChangePlanned {
		return c, fmt.Errorf("%w to %s %s: %s", ErrRefused, asked.Do, c.Hostname, why)
	}
	if c.Role.IsMaster() {
		if successor := roles.Successor(in, id); successor != "" {
			c.Successor = m.name(successor)
		}
	}
	c.Effects = c.effects(state.Policy.Kubernetes)
	return c, nil
}

// changed is the node that a change is about.
func (m *member) changed(state roles.State, asked ChangeRequest) (roles.NodeID, error) {
	switch asked.Do {
	case roles.RequestLeave:
		if asked.Node != "" {
			return "", usageError{errors.New("a node leaves by itself: run `muster node leave` on it, or `muster node remove` for one that is gone")}
		}
		return m.self(), nil
	case roles.RequestRemove, roles.RequestReplace:
	default:
		return "", usageError{fmt.Errorf("%q is nothing that can be asked for a node: leave, remove or replace", asked.Do)}
	}
	// It may have been one when it was asked, and have given its own place on.
	if role := state.Roles[m.self()]; asked.Since == nil && !role.IsMaster() {
		return "", fmt.Errorf("%w: this node is no master; ask on one of the masters %s", ErrRefused, m.masterList(state))
	}
	var found []roles.NodeID
	for _, member := range state.Members {
		name := strings.ToLower(asked.Node)
		if string(member.ID) == asked.Node || name != "" && (state.Names[member.ID] == name || m.name(member.ID) == name) {
			found = append(found, member.ID)
		}
	}
	switch {
	case len(found) == 0:
		return "", usageError{fmt.Errorf("there is no node %q; `muster nodes` shows all", asked.Node)}
	case len(found) > 1:
		return "", usageError{fmt.Errorf("%q names %d nodes: use the peer ID from `muster nodes -o json`", asked.Node, len(found))}
	}
	return found[0], nil
}

// changeState tells how far a change has come; true when there is nothing left to
// do.
func (m *member) changeState(view ledger.View, state roles.State, c *Change, since *int) bool {
	id := roles.NodeID(c.ID)
	_, asked := state.Requests[id]
	r := state.Replacement
	node, err := peerOf(id)
	gone := err == nil && ledger.IsRemoved(view, node)
	switch {
	case r != nil && r.Old == id:
		c.State = ChangeRunning
		if r.Successor != "" {
			c.Successor = m.name(r.Successor)
		}
	case asked:
		c.State = ChangeRequested
	case gone, c.replaced(since):
		c.State = ChangeDone
		return true
	}
	if c.State != ChangePlanned {
		in := m.explainInput(state)
		for _, w := range roles.Next(in).Waiting {
			if w.ID == id || r != nil && w.ID == r.Successor {
				c.Waiting = m.name(w.ID) + ": " + w.Reason
			}
		}
	}
	return false
}

// replaced tells whether a place was given on, or begun anew by the same node where
// nobody else was there to take it (history S16).
func (c Change) replaced(since *int) bool {
	return c.Do == roles.RequestReplace && (c.Role == roles.Worker && c.Tenure > 0 || since != nil && c.Tenure > *since)
}

func (c Change) effects(kubernetes bool) []string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if kubernetes {
		say("its Node is deleted, and its pods are started elsewhere")
	}
	if c.Role.IsMaster() && kubernetes {
		say("its etcd member is removed, by ID")
	}
	switch {
	case c.Role.IsMaster() && c.Successor != "":
		say("%s becomes a master in its place: its Kubernetes data is wiped, local volumes are moved aside", c.Successor)
	case c.Role.IsMaster():
		say("nobody takes its place: the site has one master fewer, and tolerates fewer failures, until a node joins")
	}
	if c.Do == roles.RequestReplace {
		say("it is a worker when it is back, keeps its address, and wipes before it joins")
	} else {
		say("it is no member any more; its address is never given again; `muster reset` on it makes it a new node")
	}
	return all
}

// requestChange asks the planner for a change that is not refused.
func (a *Agent) requestChange(ctx context.Context, asked ChangeRequest) (Change, error) {
	asked.Since = nil
	c, err := a.planChange(asked)
	if err != nil || c.State != ChangePlanned {
		return c, err
	}
	l, err := a.siteLedger()
	if err != nil {
		return c, err
	}
	id, err := peerOf(roles.NodeID(c.ID))
	if err != nil {
		return c, err
	}
	value, err := ledger.EncodeRecord(ledger.Request{Do: string(asked.Do)})
	if err != nil {
		return c, err
	}
	key := ledger.RequestKey(id)
	if _, err := l.Propose(ctx, ledger.Txn{}.If(key, 0).Set(key, value)); err != nil {
		return c, fmt.Errorf("ask to %s %s: %w", asked.Do, c.Hostname, err)
	}
	a.events.add("request", fmt.Sprintf("asked to %s %s", asked.Do, c.Hostname), "")
	c.State = ChangeRequested
	return c, nil
}

// routeChange serves planChange (POST /v1/change?plan) and requestChange.
func (a *Agent) routeChange(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/change", func(w http.ResponseWriter, r *http.Request) {
		asked, err := readBody[ChangeRequest](w, r, "what is asked")
		if err != nil {
			answer(w, nil, err)
			return
		}
		if r.URL.Query().Has("plan") {
			c, err := a.planChange(asked)
			answer(w, c, err)
			return
		}
		c, err := a.requestChange(r.Context(), asked)
		answer(w, c, err)
	})
}

// PlanChange returns what a change of members would come to, or how far it has
// come.
func (c *Client) PlanChange(ctx context.Context, asked ChangeRequest) (plan Change, err error) {
	return plan, c.call(ctx, http.MethodPost, "/v1/change?plan", asked, &plan)
}

// RequestChange asks for a change of members.
func (c *Client) RequestChange(ctx context.Context, asked ChangeRequest) (plan Change, err error) {
	return plan, c.call(ctx, http.MethodPost, "/v1/change", asked, &plan)
}

// changePoll is between two looks at a change that is under way.
const changePoll = time.Second

// AwaitChange returns when a change is done that RequestChange has begun; progress
// hears what it waits for. The error is an ExitError with ExitTimeout when ctx ends
// before; the change goes on.
func (c *Client) AwaitChange(ctx context.Context, asked ChangeRequest, begun Change, progress func(string)) (Change, error) {
	asked.Since = &begun.Tenure
	said := ""
	for {
		now, err := c.PlanChange(ctx, asked)
		if err == nil && now.State == ChangeDone {
			return now, nil
		}
		var exit *ExitError
		if err != nil && ctx.Err() == nil && errors.As(err, &exit) && exit.Code != ExitFailed {
			return now, err
		}
		if now.Waiting != "" && now.Waiting != said {
			said = now.Waiting
			progress(said)
		}
		if !sleep(ctx, changePoll, nil) {
			return now, &ExitError{Code: ExitTimeout, Err: fmt.Errorf("not done yet, and it goes on by itself: %s", orUnknown(said))}
		}
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "`muster why` says what it waits for"
	}
	return s
}

// WriteChange writes a change for a person.
func WriteChange(w io.Writer, c Change) error {
	switch c.State {
	case ChangeDone:
		_, err := fmt.Fprintf(w, "%s: %s, done\n", c.Hostname, c.Do)
		return err
	case ChangeRunning, ChangeRequested:
		_, err := fmt.Fprintf(w, "%s: %s, %s; `muster why` says what it waits for\n", c.Hostname, c.Do, c.State)
		return err
	}
	role := "no role"
	if c.Role != "" {
		role = string(c.Role)
	}
	if _, err := fmt.Fprintf(w, "%s (%s, %s), to %s:\n", c.Hostname, shortID(c.ID), role, c.Do); err != nil {
		return err
	}
	for _, effect := range c.Effects {
		if _, err := fmt.Fprintf(w, "  - %s\n", effect); err != nil {
			return err
		}
	}
	return nil
}

func shortID(id string) string {
	if len(id) > 8 {
		return "…" + id[len(id)-8:]
	}
	return id
}
