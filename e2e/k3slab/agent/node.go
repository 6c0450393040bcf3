package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/muster-edge/muster/e2e/k3slab/flags"
	"github.com/muster-edge/muster/e2e/k3slab/host"
	"github.com/muster-edge/muster/e2e/k3slab/nodepassword"
	"github.com/muster-edge/muster/e2e/k3slab/pki"
	"github.com/muster-edge/muster/e2e/k3slab/supervisor"
)

const annotateRetry = 300 * time.Millisecond

// Node is a machine's kubelet and what is needed to bring it up. Servers run one
// too.
type Node struct {
	Host    host.Host
	Options *flags.Options
	// API is the URL of the Kubernetes API, Supervisor a client that may ask for
	// certificates.
	API        string
	Supervisor *supervisor.Client
	// EtcdName is the name of this server's etcd member, "" on an agent.
	EtcdName string
}

// Run registers the node and keeps it until ctx ends. It waits for as long as the
// servers refuse: a node whose name is taken must not give up.
func (n *Node) Run(ctx context.Context) error {
	if err := pki.WriteFile(n.path("server-ca.crt"), n.Supervisor.CA(), 0o644); err != nil {
		return err
	}
	if err := n.fetchCertificates(ctx); err != nil {
		return endOf(ctx, err)
	}
	config, err := n.clientConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make the kubelet's client: %w", err)
	}
	if err := n.startKubelet(ctx, config, client); err != nil {
		return err
	}
	if err := n.annotate(ctx, client); err != nil {
		return endOf(ctx, err)
	}
	<-ctx.Done()
	return nil
}

// endOf hides an error that is nothing but the end of ctx.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (n *Node) path(name string) string { return filepath.Join(n.Host.DataDir, "agent", name) }

func (n *Node) fetchCertificates(ctx context.Context) error {
	password, err := nodepassword.Ensure(nodepassword.Path)
	if err != nil {
		return err
	}
	self := supervisor.Node{Name: n.Host.Name, Password: password, IPs: append(append([]string{}, n.Host.IPs...), n.Host.ExternalIPs...)}
	for {
		err := n.Supervisor.Certificate(ctx, supervisor.ClientCertificate, n.path("client-kubelet"), self)
		if err == nil {
			err = n.Supervisor.Certificate(ctx, supervisor.ServingCertificate, n.path("serving-kubelet"), self)
		}
		if err == nil {
			return nil
		}
		slog.Warn("waiting to retrieve agent configuration", "error", err)
		if err := host.Pause(ctx, joinRetry); err != nil {
			return err
		}
	}
}

func (n *Node) clientConfig() (*rest.Config, error) {
	certFile, keyFile := pki.Pair(n.path("client-kubelet"))
	kubeconfig := n.path("kubelet.kubeconfig")
	if err := pki.WriteFile(kubeconfig, pki.Kubeconfig(n.API, n.path("server-ca.crt"), certFile, keyFile), 0o600); err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", kubeconfig, err)
	}
	config.QPS, config.Burst, config.UserAgent = 50, 100, "k3s-kubelet"
	config.ContentType = "application/vnd.kubernetes.protobuf"
	return config, nil
}

// annotate sets what K3s' agent sets on its own Node; the servers make the
// addresses and roles of it.
func (n *Node) annotate(ctx context.Context, client kubernetes.Interface) error {
	args, err := json.Marshal(redact(os.Args[1:]))
	if err != nil {
		return fmt.Errorf("encode the node's arguments: %w", err)
	}
	annotations := map[string]string{
		"k3s.io/hostname":                      n.Host.Name,
		"k3s.io/internal-ip":                   strings.Join(n.Host.IPs, ","),
		"k3s.io/node-args":                     string(args),
		"alpha.kubernetes.io/provided-node-ip": n.Host.IP(),
	}
	if len(n.Host.ExternalIPs) > 0 {
		annotations["k3s.io/external-ip"] = strings.Join(n.Host.ExternalIPs, ",")
	}
	if n.EtcdName != "" {
		annotations["etcd.k3s.cattle.io/node-name"] = n.EtcdName
		annotations["etcd.k3s.cattle.io/node-address"] = n.Host.IP()
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return fmt.Errorf("encode the node's annotations: %w", err)
	}
	for {
		// Fails until the kubelet has registered the Node.
		_, err := client.CoreV1().Nodes().Patch(ctx, n.Host.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err == nil {
			return nil
		}
		slog.Debug("annotating the node", "error", err)
		if err := host.Pause(ctx, annotateRetry); err != nil {
			return err
		}
	}
}
