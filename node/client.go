package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/muster-edge/muster/roles"
)

// Exit codes of the command line (DESIGN §14).
const (
	ExitDone    = 0
	ExitFailed  = 1
	ExitUsage   = 2
	ExitTimeout = 3
	ExitRefused = 4
)

// ExitError is an error that decides the exit code.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string { return e.Err.Error() }
func (e *ExitError) Unwrap() error { return e.Err }

// Client asks the agent of this machine.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client of the agent whose run directory this is.
func NewClient(runDir string) *Client {
	socket := filepath.Join(runDir, SocketName)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Status returns what the agent knows of this node.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Nodes returns every node that the agent knows.
func (c *Client) Nodes(ctx context.Context) (rows []Row, err error) {
	return rows, c.call(ctx, http.MethodGet, "/v1/nodes", nil, &rows)
}

// Events returns what happened on this node, oldest first.
func (c *Client) Events(ctx context.Context) (events []Event, err error) {
	return events, c.call(ctx, http.MethodGet, "/v1/events", nil, &events)
}

// LedgerRow is one decision; sealed values read "sealed".
type LedgerRow = ledgerRow

// Ledger returns the decisions whose keys begin with prefix.
func (c *Client) Ledger(ctx context.Context, prefix string) (rows []LedgerRow, err error) {
	return rows, c.call(ctx, http.MethodGet, "/v1/ledger?prefix="+url.QueryEscape(prefix), nil, &rows)
}

// Recover plans the recovery of the site's ledger from this node, and does it if
// it is asked to and nothing speaks against it.
func (c *Client) Recover(ctx context.Context, r RecoveryRequest) (p RecoveryPlan, err error) {
	return p, c.call(ctx, http.MethodPost, "/v1/ledger/recover", r, &p)
}

// Abandon shows the founding that this node is bound to and cannot leave by
// itself, and leaves it if it is asked to.
func (c *Client) Abandon(ctx context.Context, r AbandonRequest) (p AbandonPlan, err error) {
	return p, c.call(ctx, http.MethodPost, "/v1/site/abandon", r, &p)
}

// Policy returns the site's policy.
func (c *Client) Policy(ctx context.Context) (p roles.Policy, err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/policy", nil, &p)
}

// SetPolicy changes the named fields of the site's policy.
func (c *Client) SetPolicy(ctx context.Context, fields map[string]any) (p roles.Policy, err error) {
	return p, c.call(ctx, http.MethodPatch, "/v1/policy", fields, &p)
}

// DNS returns the records that operators set.
func (c *Client) DNS(ctx context.Context) (rows []DNSRow, err error) {
	return rows, c.call(ctx, http.MethodGet, "/v1/dns", nil, &rows)
}

// SetDNS sets a record for the whole site.
func (c *Client) SetDNS(ctx context.Context, name string, addresses []string) error {
	return c.call(ctx, http.MethodPut, "/v1/dns/"+url.PathEscape(name), addresses, nil)
}

// RemoveDNS removes a record from the whole site.
func (c *Client) RemoveDNS(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/dns/"+url.PathEscape(name), nil, nil)
}

// Token returns the site's present token; only a master does.
func (c *Client) Token(ctx context.Context) (line string, err error) {
	return line, c.call(ctx, http.MethodGet, "/v1/token", nil, &line)
}

// RotateToken replaces the site's token and returns the new one.
func (c *Client) RotateToken(ctx context.Context) (line string, err error) {
	return line, c.call(ctx, http.MethodPost, "/v1/token", nil, &line)
}

// Revoke throws a node out of the site for good.
func (c *Client) Revoke(ctx context.Context, r Revocation) (done Revoked, err error) {
	return done, c.call(ctx, http.MethodPost, "/v1/revoke", r, &done)
}

// Kubeconfig returns the cluster's admin kubeconfig; a worker refuses.
func (c *Client) Kubeconfig(ctx context.Context) (text string, err error) {
	return text, c.call(ctx, http.MethodGet, "/v1/kubeconfig", nil, &text)
}

func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://muster"+path, reader)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.explain(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var f failure
		if err := json.NewDecoder(response.Body).Decode(&f); err != nil {
			return fmt.Errorf("agent answered %s", response.Status)
		}
		return &ExitError{Code: f.Exit, Err: errors.New(f.Error)}
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}

// explain says what to do when there is nobody to ask.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no agent answers on %s: is `muster agent` running on this machine?", c.socket)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s is for root only: use sudo", c.socket)
	}
	return fmt.Errorf("ask the agent: %w", err)
}
