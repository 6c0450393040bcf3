package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// SocketName is the status API's socket in the run directory.
const SocketName = "muster.sock"

// maxRequest bounds the body of an API call in bytes.
const maxRequest = 64 << 10

// closeTimeout is how long calls that are being answered may take when the agent
// ends.
const closeTimeout = time.Second

// apiServer answers on a unix socket that only root may open.
type apiServer struct {
	path   string
	server *http.Server
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// serveAPI answers from now on. The run directory is this agent's alone, so a
// socket that is there is what a dead agent left.
func (a *Agent) serveAPI() (*apiServer, error) {
	path := filepath.Join(a.opts.RunDir, SocketName)
	listener, err := listenPrivately(path)
	if err != nil {
		return nil, fmt.Errorf("serve status API: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &apiServer{path: path, cancel: cancel, server: &http.Server{
		Handler: a.routes(), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: maxRequest,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}}
	s.done.Go(func() {
		if err := s.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("status API ended", LogError, err)
		}
	})
	return s, nil
}

// listenPrivately makes a socket that was never open to anybody but its owner:
// it gets its name after its mode.
func listenPrivately(path string) (net.Listener, error) {
	unborn := path + ".new"
	if err := os.Remove(unborn); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: unborn, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(unborn, 0o600), os.Rename(unborn, path)); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// close ends what is being answered, and waits for it.
func (s *apiServer) close() error {
	s.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.server.Close() // a caller that does not read what it asked for
	}
	s.done.Wait()
	return errors.Join(err, os.Remove(s.path))
}

func (a *Agent) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, a.status(), nil) })
	mux.HandleFunc("GET /v1/nodes", func(w http.ResponseWriter, _ *http.Request) { answer(w, a.rowsIfRunning(), nil) })
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, _ *http.Request) { answer(w, a.events.list(), nil) })
	mux.HandleFunc("GET /v1/ledger", func(w http.ResponseWriter, r *http.Request) {
		l, err := a.siteLedger()
		if err != nil {
			answer(w, nil, err)
			return
		}
		answer(w, ledgerRows(l.List(r.URL.Query().Get("prefix"))), nil)
	})
	mux.HandleFunc("POST /v1/ledger/recover", func(w http.ResponseWriter, r *http.Request) {
		ask, err := readBody[RecoveryRequest](w, r, "recovery")
		if err != nil {
			answer(w, nil, err)
			return
		}
		plan, err := a.recoverLedger(r.Context(), ask)
		answer(w, plan, err)
	})
	mux.HandleFunc("POST /v1/site/abandon", func(w http.ResponseWriter, r *http.Request) {
		ask, err := readBody[AbandonRequest](w, r, "what to abandon")
		if err != nil {
			answer(w, nil, err)
			return
		}
		plan, err := a.abandonSite(ask)
		answer(w, plan, err)
	})
	mux.HandleFunc("GET /v1/policy", func(w http.ResponseWriter, _ *http.Request) {
		policy, err := a.sitePolicy()
		answer(w, policy, err)
	})
	mux.HandleFunc("PATCH /v1/policy", func(w http.ResponseWriter, r *http.Request) {
		changes, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		if err != nil {
			answer(w, nil, usageError{fmt.Errorf("read policy: %w", err)})
			return
		}
		policy, err := a.setPolicy(r.Context(), changes)
		answer(w, policy, err)
	})
	mux.HandleFunc("GET /v1/dns", func(w http.ResponseWriter, _ *http.Request) {
		records, err := a.listDNS()
		answer(w, records, err)
	})
	mux.HandleFunc("PUT /v1/dns/{name}", func(w http.ResponseWriter, r *http.Request) {
		addresses, err := readBody[[]string](w, r, "addresses")
		if err != nil {
			answer(w, nil, err)
			return
		}
		answer(w, struct{}{}, a.setDNS(r.Context(), r.PathValue("name"), addresses))
	})
	mux.HandleFunc("DELETE /v1/dns/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, a.removeDNS(r.Context(), r.PathValue("name")))
	})
	mux.HandleFunc("GET /v1/kubeconfig", func(w http.ResponseWriter, _ *http.Request) {
		text, err := a.kubeconfig()
		answer(w, string(text), err)
	})
	a.routeChange(mux)
	mux.HandleFunc("GET /v1/token", func(w http.ResponseWriter, _ *http.Request) {
		line, err := a.siteToken()
		answer(w, line, err)
	})
	mux.HandleFunc("POST /v1/token", func(w http.ResponseWriter, r *http.Request) {
		line, err := a.rotateToken(r.Context())
		answer(w, line, err)
	})
	mux.HandleFunc("POST /v1/revoke", func(w http.ResponseWriter, r *http.Request) {
		asked, err := readBody[Revocation](w, r, "what to revoke")
		if err != nil {
			answer(w, nil, err)
			return
		}
		done, err := a.revoke(r.Context(), asked)
		answer(w, done, err)
	})
	mux.Handle("GET /metrics", a.metrics())
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, usageError{fmt.Errorf("this agent (version %s) does not know %s %s", Version, r.Method, r.URL.Path)})
	})
	return mux
}

// readBody reads one JSON value. A key that is not known is a mistake and no wish
// to be passed over.
func readBody[T any](w http.ResponseWriter, r *http.Request, what string) (T, error) {
	var value T
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	err := d.Decode(&value)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return value, nil
		}
		err = errors.New("there is more than one JSON value")
	}
	return value, usageError{fmt.Errorf("read %s: %w", what, err)}
}

// usageError is the caller's fault: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errNoSite answers what only a member can say.
var errNoSite = errors.New("this node belongs to no site yet; `muster why` says what it waits for")

// ErrRefused answers what this node may not do: exit code 4.
var ErrRefused = errors.New("refused")

// failure is an error on the socket.
type failure struct {
	Error string `json:"error"`
	// Exit is the exit code that the command line should end with.
	Exit int `json:"exit"`
}

func answer(w http.ResponseWriter, value any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		f := failure{Error: err.Error(), Exit: ExitFailed}
		var usage usageError
		switch {
		case errors.As(err, &usage):
			f.Exit = ExitUsage
			w.WriteHeader(http.StatusBadRequest)
		case errors.Is(err, ErrRefused), errors.Is(err, ledger.ErrRefused):
			f.Exit = ExitRefused
			w.WriteHeader(http.StatusForbidden)
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		value = f
	}
	// The caller is gone when this fails.
	_ = json.NewEncoder(w).Encode(value)
}

func (a *Agent) siteLedger() (*ledger.Ledger, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ledger == nil {
		return nil, errNoSite
	}
	return a.ledger, nil
}

func (a *Agent) rowsIfRunning() []Row {
	if !a.running() {
		return []Row{}
	}
	return a.rows()
}

func (a *Agent) sitePolicy() (roles.Policy, error) {
	l, err := a.siteLedger()
	if err != nil {
		return roles.Policy{}, err
	}
	state, err := siteState(l.View())
	return state.Policy, err
}

// setPolicy changes the fields that the body names and leaves the others.
func (a *Agent) setPolicy(ctx context.Context, changes []byte) (roles.Policy, error) {
	l, err := a.siteLedger()
	if err != nil {
		return roles.Policy{}, err
	}
	view := l.View()
	genesis, founded := ledger.ReadGenesis(view)
	if !founded {
		return roles.Policy{}, errNoSite
	}
	record, err := roles.ChangePolicy(policyRecord(view, genesis), changes)
	switch {
	case errors.Is(err, roles.ErrFixedPolicy):
		return roles.Policy{}, fmt.Errorf("%w: %w", ErrRefused, err)
	case err != nil:
		return roles.Policy{}, usageError{err}
	}
	_, err = l.Propose(ctx, ledger.Txn{}.If(ledger.KeyPolicy, view.IndexOf(ledger.KeyPolicy)).Set(ledger.KeyPolicy, record))
	if err != nil {
		return roles.Policy{}, fmt.Errorf("set policy: %w", err)
	}
	return roles.ParsePolicy(record)
}

// DNSRow is a record as `muster dns list -o json` shows it.
type DNSRow struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
}

func (a *Agent) listDNS() ([]DNSRow, error) {
	l, err := a.siteLedger()
	if err != nil {
		return nil, err
	}
	return dnsRecords(l.View())
}

// dnsName is what the ledger accepts; a mistake in it is one of usage and not
// refused by policy.
var dnsName = regexp.MustCompile(`^(\*\.)?` + dnsLabel + `(\.` + dnsLabel + `)*$`)

const dnsLabel = `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`

func (a *Agent) setDNS(ctx context.Context, name string, addresses []string) error {
	l, err := a.siteLedger()
	if err != nil {
		return err
	}
	if !dnsName.MatchString(strings.ToLower(name)) || len(name) > 253 {
		return usageError{fmt.Errorf("%q is not a DNS name: labels of letters, digits and inner hyphens with dots between, at most 253 characters, the first may be *", name)}
	}
	var record ledger.DNS
	for _, text := range addresses {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return usageError{fmt.Errorf("%q is not an IP address", text)}
		}
		if address.Is4() {
			record.A = append(record.A, address.String())
		} else {
			record.AAAA = append(record.AAAA, address.String())
		}
	}
	if len(addresses) == 0 {
		return usageError{errors.New("a DNS record needs at least one address")}
	}
	value, err := ledger.EncodeRecord(record)
	if err != nil {
		return err
	}
	key := ledger.DNSKey(strings.ToLower(name))
	if _, err := l.Propose(ctx, ledger.Txn{}.If(key, l.View().IndexOf(key)).Set(key, value)); err != nil {
		return fmt.Errorf("set DNS record %s: %w", name, err)
	}
	return nil
}

func (a *Agent) removeDNS(ctx context.Context, name string) error {
	l, err := a.siteLedger()
	if err != nil {
		return err
	}
	key := ledger.DNSKey(strings.ToLower(name))
	index := l.View().IndexOf(key)
	if index == 0 {
		return usageError{fmt.Errorf("there is no DNS record %s; `muster dns list` shows all", name)}
	}
	if _, err := l.Propose(ctx, ledger.Txn{}.If(key, index).Del(key)); err != nil {
		return fmt.Errorf("remove DNS record %s: %w", name, err)
	}
	return nil
}

// kubeconfig returns the admin kubeconfig with the site's virtual address as the
// server, which outlives this node, or else this node's mesh address, so that it
// works from anywhere on the mesh. Only masters hold it.
func (a *Agent) kubeconfig() ([]byte, error) {
	a.mu.Lock()
	m := a.member
	a.mu.Unlock()
	if m == nil {
		return nil, errNoSite
	}
	_, state, err := m.view()
	if err != nil {
		return nil, err
	}
	if role := state.Roles[m.self()]; !role.IsMaster() {
		return nil, fmt.Errorf("%w: this node is a %s and holds no admin kubeconfig; ask one of the masters %s", ErrRefused, role, m.masterList(state))
	}
	text, err := k3s.AdminKubeconfig()
	if err != nil {
		return nil, err
	}
	address := sharedAddress(state, a.opts.Config)
	if !address.IsValid() {
		if address, err = m.nodeIP(state); err != nil {
			return nil, err
		}
	}
	return []byte(strings.ReplaceAll(string(text), "https://127.0.0.1:", "https://"+net.JoinHostPort(address.String(), ""))), nil
}

func jsonValue(e ledger.Entry) any {
	if strings.HasPrefix(e.Key, ledger.PrefixSecret) {
		return "sealed"
	}
	var v any
	if json.Unmarshal(e.Value, &v) != nil {
		return string(e.Value)
	}
	return v
}
