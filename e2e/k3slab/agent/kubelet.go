package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	cri "k8s.io/cri-client/pkg"
	fakecri "k8s.io/cri-client/pkg/fake"
	cadvisortest "k8s.io/kubernetes/pkg/kubelet/cadvisor/testing"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	"k8s.io/kubernetes/pkg/kubemark"

	"github.com/muster-edge/muster/e2e/k3slab/pki"
)

const (
	kubeletPort    = 10250
	kubeletHealthz = 10248
	maxPods        = 110
)

// startKubelet starts a hollow kubelet. Its goroutine outlives ctx, because
// kubemark's Run ends in an empty select: it ends with the process.
func (n *Node) startKubelet(ctx context.Context, config *rest.Config, client *kubernetes.Clientset) error {
	taints, err := parseTaints(n.Options.List("node-taint"))
	if err != nil {
		return err
	}
	flags, configuration := kubemark.GetHollowKubeletConfig(&kubemark.HollowKubeletOptions{
		NodeName: n.Host.Name, KubeletPort: kubeletPort, MaxPods: maxPods,
		NodeLabels: parseLabels(n.Options.List("node-label")),
		// Without "uninitialized", which the kubelet adds by itself for an
		// external cloud provider: a Node with it twice is refused.
		RegisterWithTaints: taints,
	})
	flags.NodeIP = strings.Join(n.Host.IPs, ",")
	flags.CloudProvider = "external"
	configuration.ProviderID = ""
	configuration.HealthzPort = kubeletHealthz
	configuration.FailCgroupV1 = false
	// The kubelet applies this with setrlimit, to the API server and etcd of the
	// same process too; kubemark's 1024 would choke them.
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	configuration.MaxOpenFiles = int64(limit.Max)
	if err := applyKubeletArgs(configuration, n.Options.List("kubelet-arg")); err != nil {
		return err
	}

	heartbeat := rest.CopyConfig(config)
	heartbeat.Timeout, heartbeat.QPS = 10*time.Second, -1
	heartbeatClient, err := kubernetes.NewForConfig(heartbeat)
	if err != nil {
		return fmt.Errorf("make the kubelet's heartbeat client: %w", err)
	}
	endpoint, err := fakecri.GenerateEndpoint()
	if err != nil {
		return fmt.Errorf("find a socket for the fake runtime: %w", err)
	}
	runtime := fakecri.NewFakeRemoteRuntime()
	if err := runtime.Start(endpoint); err != nil {
		return fmt.Errorf("start the fake runtime: %w", err)
	}
	runtimeService, err := cri.NewRemoteRuntimeService(ctx, endpoint, 15*time.Second, noop.NewTracerProvider(), false)
	if err != nil {
		return fmt.Errorf("connect to the fake runtime: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(pki.Pair(n.path("serving-kubelet")))
	if err != nil {
		return fmt.Errorf("load the kubelet's certificate: %w", err)
	}
	kubelet := kubemark.NewHollowKubelet(flags, configuration, client, heartbeatClient,
		&machine{Fake: cadvisortest.Fake{NodeName: n.Host.Name}}, runtime.ImageService, runtimeService, cm.NewStubContainerManager())
	kubelet.KubeletDeps.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	slog.Info("Running kubelet (hollow)", "node", n.Host.Name, "ip", n.Host.IP())
	go kubelet.Run(ctx)
	return nil
}

func parseLabels(list []string) map[string]string {
	labels := map[string]string{}
	for _, l := range list {
		name, v, _ := strings.Cut(l, "=")
		labels[name] = v
	}
	return labels
}

// parseTaints reads key[=value]:effect.
func parseTaints(list []string) ([]corev1.Taint, error) {
	var taints []corev1.Taint
	for _, t := range list {
		pair, effect, found := strings.Cut(t, ":")
		key, v, _ := strings.Cut(pair, "=")
		if !found || key == "" || effect == "" {
			return nil, fmt.Errorf("invalid --node-taint %q: not key[=value]:effect", t)
		}
		taints = append(taints, corev1.Taint{Key: key, Value: v, Effect: corev1.TaintEffect(effect)})
	}
	return taints, nil
}
