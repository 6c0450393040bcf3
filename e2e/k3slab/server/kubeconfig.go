package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/muster-edge/muster/e2e/k3slab/pki"
)

// writeKubeconfigs writes the components' kubeconfigs and the administrator's,
// and makes this server's own client.
func (s *server) writeKubeconfigs() error {
	caFile, _ := pki.Pair(s.credentials.tls("server-ca"))
	for _, name := range []string{"admin", "controller", "scheduler"} {
		certFile, keyFile := pki.Pair(s.credentials.tls("client-" + name))
		if err := pki.WriteFile(s.kubeconfig(name), pki.Kubeconfig(s.localURL(), caFile, certFile, keyFile), 0o600); err != nil {
			return err
		}
	}
	if err := s.writeAdminKubeconfig(); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig("admin"))
	if err != nil {
		return fmt.Errorf("read %s: %w", s.kubeconfig("admin"), err)
	}
	config.QPS, config.Burst = 50, 100
	s.api, err = kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	return nil
}

func (s *server) kubeconfig(name string) string {
	return filepath.Join(s.credentials.dir, "cred", name+".kubeconfig")
}

// writeAdminKubeconfig writes k3s.yaml, which holds its credentials inline.
func (s *server) writeAdminKubeconfig() error {
	mode, err := strconv.ParseUint(s.options.Get("write-kubeconfig-mode", "600"), 8, 9)
	if err != nil {
		return fmt.Errorf("invalid --write-kubeconfig-mode: %w", err)
	}
	var failed error
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		failed = errors.Join(failed, err)
		return b
	}
	certFile, keyFile := pki.Pair(s.credentials.tls("client-admin"))
	b, err := clientcmd.Write(clientcmdapi.Config{
		CurrentContext: "default",
		Clusters:       map[string]*clientcmdapi.Cluster{"default": {Server: s.localURL(), CertificateAuthorityData: s.credentials.serverCA.PEM}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"default": {ClientCertificateData: read(certFile), ClientKeyData: read(keyFile)}},
		Contexts:       map[string]*clientcmdapi.Context{"default": {Cluster: "default", AuthInfo: "default"}},
	})
	if err := errors.Join(failed, err); err != nil {
		return fmt.Errorf("make the administrator's kubeconfig: %w", err)
	}
	return pki.WriteFile(s.options.Get("write-kubeconfig", "/etc/rancher/k3s/k3s.yaml"), b, fs.FileMode(mode))
}

// firstServiceIP is the address of the service "kubernetes".
func firstServiceIP(cidr string) (string, error) {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return "", fmt.Errorf("invalid --service-cidr: %w", err)
	}
	return prefix.Masked().Addr().Next().String(), nil
}
