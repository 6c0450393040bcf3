package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/muster-edge/muster/e2e/k3slab/front"
	"github.com/muster-edge/muster/e2e/k3slab/pki"
	"github.com/muster-edge/muster/e2e/k3slab/supervisor"
)

// earlyServer answers the supervisor's requests, and 503 to all others, until the
// API server is there: a joining server needs this one's members before either
// has an API.
type earlyServer struct {
	http *http.Server
	done sync.WaitGroup
}

func (s *server) serveEarly(listener *front.Listener) (*earlyServer, error) {
	s.supervisor = &supervisor.Server{
		Cluster:        s,
		TLSDir:         s.credentials.tls(),
		ServerCA:       s.credentials.serverCA,
		ClientCA:       s.credentials.clientCA,
		ServerPassword: s.credentials.own.Password,
		NodePassword:   s.credentials.agentPassword,
		Config: supervisor.Config{
			ClusterIPRange: s.clusterCIDR,
			ServiceIPRange: s.serviceCIDR,
			ClusterDNS:     s.options.Get("cluster-dns", "10.43.0.10"),
			ClusterDomain:  s.options.Get("cluster-domain", "cluster.local"),
			FlannelBackend: s.options.Get("flannel-backend", "vxlan"),
		},
	}
	pair, err := tls.LoadX509KeyPair(pki.Pair(s.credentials.tls("serving-kube-apiserver")))
	if err != nil {
		return nil, fmt.Errorf("load the serving certificate: %w", err)
	}
	e := &earlyServer{http: &http.Server{
		Handler: s.supervisor.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			supervisor.WriteStatus(w, http.StatusServiceUnavailable, "apiserver not ready")
		})),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}}
	e.done.Go(func() {
		if err := e.http.ServeTLS(listener.Early(), "", ""); !errors.Is(err, http.ErrServerClosed) {
			slog.Debug("the early server ended", "error", err)
		}
	})
	slog.Info("supervisor is listening", "address", listener.Addr().String())
	return e, nil
}

// close ends the early server's turn for good, its open connections included.
func (e *earlyServer) close() {
	// The error is that of a listener that is closed elsewhere.
	_ = e.http.Close()
	e.done.Wait()
}
