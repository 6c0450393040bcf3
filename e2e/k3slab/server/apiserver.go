package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"github.com/muster-edge/muster/e2e/k3slab/datastore"
	"github.com/muster-edge/muster/e2e/k3slab/front"
)

func init() {
	// Three components of one process each apply their logging configuration.
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
}

// runAPIServer runs kube-apiserver on the listener, with the supervisor's paths in
// front of its authentication. Upstream's cobra command is of no use here: it
// installs signal handlers, and the second command to do so panics.
func (s *server) runAPIServer(ctx context.Context, listener *front.Listener, early *earlyServer) error {
	run := options.NewServerRunOptions()
	if err := parseInto(run.Flags(), s.apiServerArgs(), s.options.List("kube-apiserver-arg")); err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	port, err := strconv.Atoi(s.port)
	if err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	run.SecureServing.Listener = listener
	run.SecureServing.BindPort = port
	if err := run.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	completed, err := run.Complete(ctx)
	if err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	if errs := completed.Validate(); len(errs) > 0 {
		return fmt.Errorf("kube-apiserver: %w", utilerrors.NewAggregate(errs))
	}
	// New connections wait from here, about two seconds. Building the server
	// already makes loopback connections, which would fail on the certificate of
	// the early server.
	listener.HandOver()
	config, err := app.NewConfig(completed)
	if err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	generic := &config.Aggregator.GenericConfig.Config
	chain := generic.BuildHandlerChainFunc
	generic.BuildHandlerChainFunc = func(h http.Handler, c *genericapiserver.Config) http.Handler {
		return s.supervisor.Wrap(chain(h, c))
	}
	built, err := config.Complete()
	if err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	servers, err := app.CreateServerChain(built)
	if err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	prepared, err := servers.PrepareRun()
	if err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	early.close()
	if err := prepared.Run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	return endOf(ctx, errors.New("kube-apiserver ended by itself"))
}

func (s *server) apiServerArgs() []string {
	tls := s.credentials.tls
	return append(s.etcdArgs(), []string{
		"--advertise-address=" + s.advertise,
		"--allow-privileged=true",
		"--anonymous-auth=false",
		"--authorization-mode=Node,RBAC",
		"--api-audiences=https://kubernetes.default.svc.cluster.local,k3s",
		"--cert-dir=" + tls("temporary-certs"),
		"--client-ca-file=" + tls("client-ca.crt"),
		"--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth=true",
		"--kubelet-certificate-authority=" + tls("server-ca.crt"),
		"--kubelet-client-certificate=" + tls("client-kube-apiserver.crt"),
		"--kubelet-client-key=" + tls("client-kube-apiserver.key"),
		"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"--profiling=false",
		"--proxy-client-cert-file=" + tls("client-auth-proxy.crt"),
		"--proxy-client-key-file=" + tls("client-auth-proxy.key"),
		"--requestheader-allowed-names=system:auth-proxy",
		"--requestheader-client-ca-file=" + tls("request-header-ca.crt"),
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + tls("service.key"),
		"--service-account-signing-key-file=" + tls("service.key"),
		"--service-cluster-ip-range=" + s.serviceCIDR,
		"--storage-backend=etcd3",
		"--tls-cert-file=" + tls("serving-kube-apiserver.crt"),
		"--tls-private-key-file=" + tls("serving-kube-apiserver.key"),
	}...)
}

// etcdArgs say where the API server keeps its data.
func (s *server) etcdArgs() []string {
	if s.external != nil {
		return s.external.APIServerArgs()
	}
	tls := s.credentials.tls
	return []string{
		"--etcd-servers=" + datastore.Endpoint,
		"--etcd-cafile=" + tls("etcd", "server-ca.crt"),
		"--etcd-certfile=" + tls("etcd", "client.crt"),
		"--etcd-keyfile=" + tls("etcd", "client.key"),
	}
}

// parseInto parses our arguments and then the user's, which may name a flag with
// or without its dashes, into a component's flags.
func parseInto(sets cliflag.NamedFlagSets, ours, users []string) error {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, set := range sets.FlagSets {
		all.AddFlagSet(set)
	}
	args := append([]string{}, ours...)
	for _, arg := range users {
		args = append(args, "--"+strings.TrimLeft(arg, "-"))
	}
	return all.Parse(args)
}
