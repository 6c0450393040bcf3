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
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/roles"
)

// startAlone returns an agent that is a whole site by itself.
func startAlone(t *testing.T) *testAgent {
	t.Helper()
	a := newTestAgent(t, "box", loopback(testToken(t), "", 1))
	a.start()
	// It knows of itself what it has published, a moment after the phase.
	a.until("ready", func() bool { return a.running() && a.rows()[0].Ready && len(a.why()) == 0 })
	return a
}

// raw calls the socket as no client of ours would.
func (a *testAgent) raw(method, path string, body io.Reader) *http.Response {
	a.t.Helper()
	request, err := http.NewRequestWithContext(a.t.Context(), method, "http://muster"+path, body)
	require.NoError(a.t, err)
	client := a.client()
	a.t.Cleanup(client.http.CloseIdleConnections)
	response, err := client.http.Do(request)
	require.NoError(a.t, err)
	a.t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

func requireExit(t *testing.T, code int, err error) {
	t.Helper()
	var exit *ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, code, exit.Code, err)
}

func TestWhatAnOperatorMayDo(t *testing.T) {
	a := startAlone(t)
	c, ctx := a.client(), t.Context()

	t.Run("the socket is its owner's alone", func(t *testing.T) {
		info, err := os.Stat(filepath.Join(a.opts.RunDir, SocketName))
		require.NoError(t, err)
		require.Equal(t, os.ModeSocket|0o600, info.Mode())
		require.NoFileExists(t, filepath.Join(a.opts.RunDir, SocketName+".new"))
	})
	t.Run("status, nodes, events, ledger", func(t *testing.T) {
		status, err := c.Status(ctx)
		require.NoError(t, err)
		require.Equal(t, "box", status.Hostname)
		require.Equal(t, "box", status.CoordinatorHostname)
		require.Empty(t, status.WaitingFor)
		require.NotNil(t, status.WaitingFor, "[] in JSON")
		nodes, err := c.Nodes(ctx)
		require.NoError(t, err)
		require.Len(t, nodes, 1)
		require.Equal(t, PathSelf, nodes[0].Path)
		require.True(t, nodes[0].Ready)
		events, err := c.Events(ctx)
		require.NoError(t, err)
		require.NotEmpty(t, events)
		rows, err := c.Ledger(ctx, "role/")
		require.NoError(t, err)
		require.Len(t, rows, 1)
		rows, err = c.Ledger(ctx, "no/such prefix&x=y")
		require.NoError(t, err)
		require.Equal(t, []LedgerRow{}, rows)
	})
	t.Run("the policy changes where it may", func(t *testing.T) {
		policy, err := c.SetPolicy(ctx, map[string]any{"replace_after": "30m"})
		require.NoError(t, err)
		require.Equal(t, 30*time.Minute, policy.ReplaceAfter)
		policy, err = c.Policy(ctx)
		require.NoError(t, err)
		require.Equal(t, 30*time.Minute, policy.ReplaceAfter)
		status, err := c.Status(ctx)
		require.NoError(t, err)
		require.Contains(t, strings.Join(status.Warnings, "\n"), "replace_after is 15m0s instead of 30m0s", "this node's own file says otherwise")
	})
	t.Run("the policy does not change where it may not", func(t *testing.T) {
		_, err := c.SetPolicy(ctx, map[string]any{"master_nodes": 2, "ha": true})
		requireExit(t, ExitRefused, err)
		require.ErrorContains(t, err, "ha.enable")
		for _, fields := range []map[string]any{
			{"replace_afer": "30m"},                            // unknown
			{"minimum_nodes": "many"},                          // a wrong type
			{"minimum_nodes": 0},                               // impossible
			{"replace_after": strings.Repeat("x", maxRequest)}, // more than is read
		} {
			_, err := c.SetPolicy(ctx, fields)
			requireExit(t, ExitUsage, err)
		}
		policy, err := c.Policy(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, policy.Masters())
	})
	t.Run("records", func(t *testing.T) {
		require.NoError(t, c.SetDNS(ctx, "Registry.example", []string{"10.1.0.7", "fd00::7"}))
		records, err := c.DNS(ctx)
		require.NoError(t, err)
		require.Len(t, records, 1)
		require.Equal(t, "registry.example", records[0].Name)
		require.Len(t, records[0].Addresses, 2)
		require.NoError(t, c.RemoveDNS(ctx, "registry.example"))
		records, err = c.DNS(ctx)
		require.NoError(t, err)
		require.Empty(t, records)
	})
	t.Run("records that cannot be", func(t *testing.T) {
		requireExit(t, ExitUsage, c.SetDNS(ctx, "x.example", []string{"ten"}))
		requireExit(t, ExitUsage, c.SetDNS(ctx, "x.example", nil))
		requireExit(t, ExitUsage, c.RemoveDNS(ctx, "x.example"))
		requireExit(t, ExitUsage, c.SetDNS(ctx, "not a name", []string{"10.1.0.7"}))
		requireExit(t, ExitUsage, c.SetDNS(ctx, "../policy", []string{"10.1.0.7"}))
	})
	t.Run("what is no call of ours", func(t *testing.T) {
		for _, call := range []struct{ method, path string }{{"GET", "/"}, {"GET", "/v2/status"}, {"DELETE", "/v1/status"}, {"POST", "/v1/policy"}} {
			response := a.raw(call.method, call.path, nil)
			require.Equal(t, http.StatusBadRequest, response.StatusCode, call)
			require.Equal(t, "application/json", response.Header.Get("Content-Type"))
		}
		response := a.raw("PUT", "/v1/dns/x.example", strings.NewReader(`{"not":"a list"}`))
		require.Equal(t, http.StatusBadRequest, response.StatusCode)
		response = a.raw("PATCH", "/v1/policy", strings.NewReader(`[1]`))
		require.Equal(t, http.StatusBadRequest, response.StatusCode)
	})
	t.Run("metrics", func(t *testing.T) {
		text, err := io.ReadAll(a.raw("GET", "/metrics", nil).Body)
		require.NoError(t, err)
		for _, line := range []string{"muster_ready 1", `muster_phase{phase="running"} 1`, "muster_coordinator 1", "muster_ledger_quorum 1", `muster_members{status="alive"} 1`} {
			require.Contains(t, string(text), line)
		}
	})
	t.Run("asking all at once", func(t *testing.T) {
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				c := a.client()
				defer c.http.CloseIdleConnections()
				for range 20 {
					_, err := c.Status(ctx)
					if err == nil {
						_, err = c.Nodes(ctx)
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
	})
}

func TestANodeWithoutASiteSaysSo(t *testing.T) {
	a := newTestAgent(t, "box", loopback(testToken(t), "", 2))
	a.start()
	a.until("searching", func() bool { return a.phase().Phase == PhaseSearching })
	c, ctx := a.client(), t.Context()
	_, err := c.Policy(ctx)
	requireExit(t, ExitFailed, err)
	require.ErrorContains(t, err, "muster why")
	_, err = c.Ledger(ctx, "")
	require.ErrorIs(t, asText(err), errNoSite)
	_, err = c.Kubeconfig(ctx)
	requireExit(t, ExitFailed, err)
	nodes, err := c.Nodes(ctx)
	require.NoError(t, err)
	require.Len(t, nodes, 1)
}

// asText compares what came over the socket with an error here.
func asText(err error) error {
	if err != nil && err.Error() == errNoSite.Error() {
		return errNoSite
	}
	return err
}

func TestWithoutAnAgentTheClientSaysWhatToDo(t *testing.T) {
	dir := shortDir(t)
	_, err := NewClient(dir).Status(t.Context())
	require.ErrorContains(t, err, "is `muster agent` running on this machine?")

	// The socket of an agent that was killed.
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, SocketName), Net: "unix"})
	require.NoError(t, err)
	listener.SetUnlinkOnClose(false)
	require.NoError(t, listener.Close())
	_, err = NewClient(dir).Status(t.Context())
	require.ErrorContains(t, err, "is `muster agent` running on this machine?")

	require.ErrorContains(t, NewClient(dir).explain(fmt.Errorf("dial: %w", os.ErrPermission)), "sudo")
	require.ErrorContains(t, NewClient(dir).explain(context.Canceled), "ask the agent")
}

// answers is a server that is not an agent, or one of another version.
func answers(t *testing.T, status int, body string) *Client {
	dir := shortDir(t)
	listener, err := listenPrivately(filepath.Join(dir, SocketName))
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})}
	var group sync.WaitGroup
	group.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() { _ = server.Close(); group.Wait() })
	c := NewClient(dir)
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

func TestAnswersThatAreNone(t *testing.T) {
	_, err := answers(t, http.StatusOK, "<html>").Status(t.Context())
	require.ErrorContains(t, err, "read the agent's answer")
	_, err = answers(t, http.StatusTeapot, "short and stout").Status(t.Context())
	require.ErrorContains(t, err, "418")
	_, err = answers(t, http.StatusForbidden, `{"error":"no","exit":4}`).Status(t.Context())
	requireExit(t, ExitRefused, err)
	status, err := answers(t, http.StatusOK, `{"hostname":"n1","newer":true}`).Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, "n1", status.Hostname)
}

func TestErrorsBecomeExitCodes(t *testing.T) {
	e := &ExitError{Code: ExitUsage, Err: errors.New("x")}
	require.Equal(t, "x", e.Error())
	require.ErrorIs(t, usageError{roles.ErrBadPolicy}, roles.ErrBadPolicy)
}

func TestTheSupervisorHearsWhatHappens(t *testing.T) {
	a := newTestAgent(t, "box", loopback(testToken(t), "", 1))
	var mu sync.Mutex
	var heard []string
	a.opts.Supervisor = Supervisor{Watchdog: 10 * time.Millisecond, Tell: func(s string) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, s)
	}}
	said := func(line string) bool {
		mu.Lock()
		defer mu.Unlock()
		for _, h := range heard {
			if h == line {
				return true
			}
		}
		return false
	}
	a.start()
	a.until("running and alive", func() bool { return said("STATUS=running") && said("WATCHDOG=1") })
	a.stop()
	require.Equal(t, "READY=1\nSTATUS=starting", heard[0], "as soon as the API answers")
	require.True(t, said("STOPPING=1"))
}

// FuzzRequests holds that a body is what was meant or the caller's mistake.
func FuzzRequests(f *testing.F) {
	for _, body := range []string{
		`{"yes":true}`, `{"yes":true,"lose_newer":false}`, `{"do":"leave","node":""}`, `["192.0.2.1"]`, `{"node":"kiosk-7","reason":"stolen","yes":true}`,
		`{"yes":true}{"yes":false}`, `{"Yes":1}`, `[`, ``, `null`, `{"yse":true}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		reread[RecoveryRequest](t, body)
		reread[AbandonRequest](t, body)
		reread[ChangeRequest](t, body)
		reread[Revocation](t, body)
		reread[[]string](t, body)
	})
}

// reread reads a body, and what is written of it again.
func reread[T any](t *testing.T, body []byte) {
	read := func(text []byte) (T, error) {
		return readBody[T](httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(text)), "it")
	}
	value, err := read(body)
	if err != nil {
		var usage usageError
		require.ErrorAs(t, err, &usage)
		return
	}
	text, err := json.Marshal(value)
	require.NoError(t, err)
	again, err := read(text)
	require.NoError(t, err)
	require.Equal(t, value, again)
}
