// Package server is `k3s server`: supervisor, embedded etcd, the real
// kube-apiserver, controller-manager and scheduler in one process, the small
// controllers that K3s has in its cloud provider, and the server's own node.
package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	"github.com/muster-edge/muster/e2e/k3slab/agent"
	"github.com/muster-edge/muster/e2e/k3slab/datastore"
	"github.com/muster-edge/muster/e2e/k3slab/flags"
	"github.com/muster-edge/muster/e2e/k3slab/front"
	"github.com/muster-edge/muster/e2e/k3slab/host"
	"github.com/muster-edge/muster/e2e/k3slab/pki"
	"github.com/muster-edge/muster/e2e/k3slab/supervisor"
)

const (
	// readyPoll is how often the own API is asked whether it is up.
	readyPoll = 100 * time.Millisecond
	// stopGrace is how long the API server may finish requests before its etcd is
	// closed. Left alone it would wait a minute for its watchers.
	stopGrace = time.Second
)

type server struct {
	options     *flags.Options
	host        host.Host
	port        string
	advertise   string
	clusterCIDR string
	serviceCIDR string

	credentials credentials
	supervisor  *supervisor.Server
	api         *kubernetes.Clientset
	external    *datastore.External // nil: etcd is in this process
	etcd        atomic.Pointer[datastore.Etcd]
	ready       atomic.Bool
}

// Run is `k3s server`. It returns nil when ctx ends or after --cluster-reset.
func Run(ctx context.Context, options *flags.Options) error {
	s, err := newServer(options)
	if err != nil {
		return err
	}
	if err := s.prepareCredentials(ctx); err != nil {
		return endOf(ctx, err)
	}
	listener, err := s.listen()
	if err != nil {
		return err
	}
	defer listener.Close()
	early, err := s.serveEarly(listener)
	if err != nil {
		return err
	}
	defer early.close()

	if s.external != nil {
		return s.runAll(ctx, listener, early, nil)
	}
	etcd, err := s.startDatastore(ctx)
	if err != nil {
		return endOf(ctx, err)
	}
	defer etcd.Close()
	if options.Is("cluster-reset") {
		slog.Info("Managed etcd cluster membership has been reset, restart without --cluster-reset flag now.")
		return nil
	}
	return s.runAll(ctx, listener, early, etcd)
}

// runAll runs what needs the datastore; etcd is nil when that is external.
func (s *server) runAll(ctx context.Context, listener *front.Listener, early *earlyServer, etcd *datastore.Etcd) error {
	group, ctx := errgroup.WithContext(ctx)
	if etcd != nil {
		group.Go(func() error { return etcd.Wait(ctx) })
	}
	group.Go(func() error { return s.runAPIServer(ctx, listener, early) })
	group.Go(func() error { return s.runAboveAPI(ctx, group) })
	return waitBriefly(ctx, group)
}

// waitBriefly waits for the group, but no longer than stopGrace once its context
// has ended: what is then left over ends with the process.
func waitBriefly(ctx context.Context, group *errgroup.Group) error {
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(stopGrace):
	}
	// The group's first error, or that of a context that somebody else ended.
	return context.Cause(ctx)
}

func newServer(options *flags.Options) (*server, error) {
	self, err := host.Describe(options)
	if err != nil {
		return nil, err
	}
	port := options.Get("https-listen-port", "6443")
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, fmt.Errorf("invalid --https-listen-port %q", port)
	}
	external, err := externalDatastore(options)
	if err != nil {
		return nil, err
	}
	s := &server{
		external:    external,
		options:     options,
		host:        self,
		port:        port,
		advertise:   options.Get("advertise-address", self.IP()),
		clusterCIDR: options.Get("cluster-cidr", "10.42.0.0/16"),
		serviceCIDR: options.Get("service-cidr", "10.43.0.0/16"),
	}
	s.credentials = credentials{dir: filepath.Join(self.DataDir, "server")}
	return s, nil
}

func (s *server) localURL() string { return "https://" + net.JoinHostPort("127.0.0.1", s.port) }

func (s *server) listen() (*front.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(s.options.Get("bind-address", "0.0.0.0"), s.port))
	if err != nil {
		return nil, fmt.Errorf("listen for the API: %w", err)
	}
	return front.New(l), nil
}

func (s *server) startDatastore(ctx context.Context) (*datastore.Etcd, error) {
	config := datastore.Config{
		Dir:      s.datastoreDir(),
		TLSDir:   s.credentials.tls("etcd"),
		NodeName: s.host.Name,
		NodeIP:   s.host.IP(),
		Args:     s.options.List("etcd-arg"),
		Reset:    s.options.Is("cluster-reset"),
	}
	if s.credentials.join != nil {
		config.Join = s.credentials.join
	}
	etcd, err := datastore.Start(ctx, config)
	if err != nil {
		return nil, err
	}
	if s.joinable() {
		// From now on the server can be joined however it is started, as K3s
		// goes on with etcd once etcd's data is there.
		if err := pki.WriteFile(s.joinableMark(), nil, 0o600); err != nil {
			etcd.Close()
			return nil, err
		}
	}
	s.etcd.Store(etcd)
	return etcd, nil
}

func (s *server) datastoreDir() string { return filepath.Join(s.host.DataDir, "server", "db", "etcd") }
func (s *server) joinableMark() string { return filepath.Join(s.datastoreDir(), "joinable") }

// joinable reports whether other servers may join. K3s keeps its data in SQLite
// without --cluster-init; the stand-in has an etcd that refuses company.
func (s *server) joinable() bool {
	if s.external != nil {
		return false // the servers share it, none joins another's etcd
	}
	if s.options.Is("cluster-init") || s.options.Get("server", "") != "" {
		return true
	}
	_, err := os.Stat(s.joinableMark())
	return err == nil
}

// runAboveAPI starts what needs the API once that answers.
func (s *server) runAboveAPI(ctx context.Context, group *errgroup.Group) error {
	if err := s.waitForAPI(ctx); err != nil {
		return endOf(ctx, err)
	}
	s.ready.Store(true)
	slog.Info("Kube API server is now running")
	if !s.options.Is("disable-controller-manager") {
		go s.runUpstream(ctx, "controller-manager", group, s.runControllerManager)
	}
	if !s.options.Is("disable-scheduler") {
		go s.runUpstream(ctx, "scheduler", group, s.runScheduler)
	}
	if !s.options.Is("disable-cloud-controller") {
		group.Go(func() error { return s.runNodeController(ctx) })
	}
	if !s.options.Is("disable-agent") {
		group.Go(func() error { return s.runNode(ctx) })
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		slog.Warn("notifying systemd", "error", err)
	}
	return nil
}

// runUpstream runs a component that ends the whole process with os.Exit when its
// context ends, before etcd could be closed. So its context never does: these two
// goroutines end with the process.
func (s *server) runUpstream(ctx context.Context, name string, group *errgroup.Group, run func(context.Context) error) {
	err := run(context.WithoutCancel(ctx))
	if ctx.Err() != nil {
		return
	}
	group.Go(func() error { return fmt.Errorf("%s ended: %w", name, err) })
}

func (s *server) waitForAPI(ctx context.Context) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := s.api.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(attempt)
		cancel()
		if err == nil {
			return nil
		}
		slog.Debug("waiting for the API", "error", err)
		if err := host.Pause(ctx, readyPoll); err != nil {
			return err
		}
	}
}

// runNode runs the server's own node, which fetches its certificates through the
// supervisor as any agent does.
func (s *server) runNode(ctx context.Context) error {
	client, err := supervisor.Dial(ctx, s.localURL(), s.credentials.own)
	if err != nil {
		return endOf(ctx, fmt.Errorf("dial the own supervisor: %w", err))
	}
	node := &agent.Node{Host: s.host, Options: s.options, API: s.localURL(), Supervisor: client}
	if etcd := s.etcd.Load(); etcd != nil {
		node.EtcdName = etcd.Name()
	}
	return node.Run(ctx)
}

// endOf hides an error that is nothing but the end of ctx.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
