package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/muster-edge/muster/e2e/k3slab/nodepassword"
	"github.com/muster-edge/muster/e2e/k3slab/supervisor"
)

// Ready implements supervisor.Cluster.
func (s *server) Ready() bool { return s.ready.Load() }

// Members implements supervisor.Cluster.
func (s *server) Members(ctx context.Context) ([]supervisor.Member, error) {
	if !s.joinable() {
		return nil, supervisor.ErrDatastoreDisabled
	}
	etcd := s.etcd.Load()
	if etcd == nil {
		return nil, errors.New("etcd is not ready")
	}
	return etcd.Members(ctx)
}

// APIServers implements supervisor.Cluster.
func (s *server) APIServers(ctx context.Context) ([]string, error) {
	// The API server keeps this one slice of this name up to date by itself.
	slice, err := s.api.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the API servers: %w", err)
	}
	if len(slice.Ports) == 0 || slice.Ports[0].Port == nil {
		return nil, errors.New("list the API servers: no port yet")
	}
	port := strconv.Itoa(int(*slice.Ports[0].Port))
	servers := []string{}
	for _, endpoint := range slice.Endpoints {
		for _, address := range endpoint.Addresses {
			servers = append(servers, net.JoinHostPort(address, port))
		}
	}
	return servers, nil
}

// NodePasswords implements supervisor.Cluster.
func (s *server) NodePasswords() nodepassword.Store { return secretStore{s.api} }

// secretStore keeps hashes in the secrets that K3s keeps them in.
type secretStore struct{ api kubernetes.Interface }

const nodePasswordSuffix = ".node-password.k3s"

// Hash implements nodepassword.Store.
func (s secretStore) Hash(ctx context.Context, node string) (string, error) {
	secret, err := s.api.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, node+nodePasswordSuffix, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nodepassword.ErrUnknown
	}
	if err != nil {
		return "", err
	}
	return string(secret.Data["hash"]), nil
}

// Record implements nodepassword.Store.
func (s secretStore) Record(ctx context.Context, node, hash string) error {
	immutable := true
	_, err := s.api.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: node + nodePasswordSuffix},
		Data:       map[string][]byte{"hash": []byte(hash)},
		Immutable:  &immutable,
	}, metav1.CreateOptions{})
	return err
}
