package supervisor

import (
	"context"
	"crypto/subtle"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"github.com/muster-edge/muster/e2e/k3slab/nodepassword"
	"github.com/muster-edge/muster/e2e/k3slab/pki"
	"github.com/muster-edge/muster/e2e/k3slab/token"
)

// Cluster is what a supervisor asks of the server that it is part of.
type Cluster interface {
	// Ready reports whether the API answers; until then nodes are put off.
	Ready() bool
	// Members lists the datastore's members, or ErrDatastoreDisabled.
	Members(ctx context.Context) ([]Member, error)
	// APIServers lists the host:port of every server's API.
	APIServers(ctx context.Context) ([]string, error)
	// NodePasswords is where the hashes of node passwords lie.
	NodePasswords() nodepassword.Store
}

// Server answers other servers and agents.
type Server struct {
	Cluster Cluster
	Config  Config
	// TLSDir is the folder of the BootstrapFiles.
	TLSDir   string
	ServerCA *pki.Authority
	ClientCA *pki.Authority
	// ServerPassword opens everything; NodePassword, which may be the same,
	// opens what an agent needs and nothing more.
	ServerPassword string
	NodePassword   string
}

// Wrap puts the supervisor's paths in front of another handler.
func (s *Server) Wrap(next http.Handler) http.Handler {
	mux := s.mux()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := r.URL.Path
		if p == pathPing || p == pathCACerts || strings.HasPrefix(p, "/db/") || strings.HasPrefix(p, "/v1-k3s/") {
			mux.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) mux() *http.ServeMux {
	servers, nodes := []string{token.Server}, []string{token.Server, token.Node}
	m := http.NewServeMux()
	m.HandleFunc(pathPing, func(w http.ResponseWriter, _ *http.Request) { reply(w, []byte("pong")) })
	m.HandleFunc(pathCACerts, s.file("server-ca.crt"))
	m.HandleFunc(pathBootstrap, s.authenticate(servers, s.bootstrap))
	m.HandleFunc(pathMembers, s.authenticate(servers, s.members))
	m.HandleFunc(pathConfig, s.authenticate(nodes, func(w http.ResponseWriter, _ *http.Request) { replyJSON(w, s.Config) }))
	m.HandleFunc(pathAPIServers, s.authenticate(nodes, s.whenReady(s.apiServers)))
	m.HandleFunc(pathReadyz, s.authenticate(nodes, s.whenReady(func(w http.ResponseWriter, _ *http.Request) { reply(w, []byte("ok")) })))
	m.HandleFunc(pathClientCA, s.authenticate(nodes, s.file("client-ca.crt")))
	m.HandleFunc(pathCertificate(ClientCertificate), s.authenticate(nodes, s.whenReady(s.certificate(s.clientCertificate))))
	m.HandleFunc(pathCertificate(ServingCertificate), s.authenticate(nodes, s.whenReady(s.certificate(s.servingCertificate))))
	return m
}

func (s *Server) authenticate(users []string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		user, password, given := r.BasicAuth()
		if !given || !slices.Contains(users, user) || !s.knows(user, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="k3s"`)
			WriteStatus(w, http.StatusUnauthorized, "Unauthorized")
			return
		}
		next(w, r)
	}
}

func (s *Server) knows(user, password string) bool {
	want := s.ServerPassword
	if user == token.Node {
		want = s.NodePassword
	}
	return want != "" && subtle.ConstantTimeCompare([]byte(password), []byte(want)) == 1
}

func (s *Server) whenReady(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.Cluster.Ready() {
			WriteStatus(w, http.StatusServiceUnavailable, "runtime core not ready")
			return
		}
		next(w, r)
	}
}

func (s *Server) file(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, filepath.Join(s.TLSDir, name)) }
}

func (s *Server) bootstrap(w http.ResponseWriter, _ *http.Request) {
	files, err := ReadIdentity(s.TLSDir)
	if err != nil {
		WriteStatus(w, http.StatusInternalServerError, err.Error())
		return
	}
	replyJSON(w, files)
}

func (s *Server) members(w http.ResponseWriter, r *http.Request) {
	members, err := s.Cluster.Members(r.Context())
	switch {
	case errors.Is(err, ErrDatastoreDisabled):
		WriteStatus(w, http.StatusNotFound, err.Error())
	case err != nil:
		WriteStatus(w, http.StatusServiceUnavailable, err.Error())
	default:
		replyJSON(w, memberList{members})
	}
}

func (s *Server) apiServers(w http.ResponseWriter, r *http.Request) {
	servers, err := s.Cluster.APIServers(r.Context())
	if err != nil {
		WriteStatus(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	replyJSON(w, servers)
}

// certificate signs a kubelet's request once the node has proved its name.
func (s *Server) certificate(sign func(node string, request *x509.CertificateRequest, r *http.Request) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		node, password := r.Header.Get(headerNodeName), r.Header.Get(headerNodePassword)
		if node == "" || password == "" {
			WriteStatus(w, http.StatusBadRequest, "node name or password not set")
			return
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, pki.MaxRequest+1))
		if err != nil {
			WriteStatus(w, http.StatusBadRequest, err.Error())
			return
		}
		request, err := pki.ParseRequest(body)
		if err != nil {
			WriteStatus(w, http.StatusBadRequest, err.Error())
			return
		}
		if err := nodepassword.Check(r.Context(), s.Cluster.NodePasswords(), node, password); err != nil {
			code := http.StatusServiceUnavailable
			if errors.Is(err, nodepassword.ErrRejected) {
				code = http.StatusForbidden
			}
			WriteStatus(w, code, err.Error())
			return
		}
		chain, err := sign(node, request, r)
		if err != nil {
			WriteStatus(w, http.StatusInternalServerError, err.Error())
			return
		}
		reply(w, chain)
	}
}

func (s *Server) clientCertificate(node string, request *x509.CertificateRequest, _ *http.Request) ([]byte, error) {
	return s.ClientCA.Sign(request.PublicKey, pki.Leaf{
		CommonName:    "system:node:" + node,
		Organizations: []string{"system:nodes"},
		Usages:        []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (s *Server) servingCertificate(node string, request *x509.CertificateRequest, r *http.Request) ([]byte, error) {
	return s.ServerCA.Sign(request.PublicKey, pki.Leaf{
		CommonName: node,
		SANs:       append([]string{node, "localhost", "127.0.0.1"}, strings.Split(r.Header.Get(headerNodeIP), ",")...),
		Usages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

type memberList struct {
	Members []Member `json:"members"`
}

func replyJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		WriteStatus(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	reply(w, b)
}

func reply(w http.ResponseWriter, b []byte) {
	if _, err := w.Write(b); err != nil {
		slog.Debug("answering a supervisor request", "error", err)
	}
}
