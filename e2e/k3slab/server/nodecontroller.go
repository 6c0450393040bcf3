package server

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/muster-edge/muster/e2e/k3slab/host"
)

const (
	reconcileEvery = time.Second
	// passwordGrace is how long a node password may stand without a Node: the
	// password is recorded before the kubelet registers.
	passwordGrace = 30 * time.Second

	etcdNameAnnotation = "etcd.k3s.cattle.io/node-name"
	uninitialized      = "node.cloudprovider.kubernetes.io/uninitialized"
)

// runNodeController does in every server what K3s' cloud provider and etcd
// controller do. NodeRestriction forbids a kubelet to label its own role and the
// kubelet writes its addresses over, so somebody else has to; and whoever deletes
// a server's Node means its etcd member too.
func (s *server) runNodeController(ctx context.Context) error {
	members := map[string]string{} // Node name to etcd member name, once seen
	for host.Pause(ctx, reconcileEvery) == nil {
		if err := s.reconcileNodes(ctx, members); err != nil && ctx.Err() == nil {
			slog.Warn("reconciling the nodes", "error", err)
		}
	}
	return nil
}

func (s *server) reconcileNodes(ctx context.Context, members map[string]string) error {
	list, err := s.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	present := map[string]bool{}
	for i := range list.Items {
		node := &list.Items[i]
		present[node.Name] = true
		if member := node.Annotations[etcdNameAnnotation]; member != "" {
			members[node.Name] = member
		}
		if err := s.initializeNode(ctx, node); err != nil {
			slog.Warn("initializing a node", "node", node.Name, "error", err)
		}
	}
	for node, member := range members {
		if present[node] {
			continue
		}
		slog.Info("removing the etcd member of a deleted node", "node", node, "member", member)
		if err := s.etcd.Load().Remove(ctx, member); err != nil {
			return err
		}
		delete(members, node)
	}
	return s.forgetPasswords(ctx, present)
}

// forgetPasswords frees the names of deleted nodes. It looks at the level, not at
// the deletion: that may fall between two runs of this server, and the name would
// be taken for ever.
func (s *server) forgetPasswords(ctx context.Context, present map[string]bool) error {
	secrets := s.api.CoreV1().Secrets(metav1.NamespaceSystem)
	list, err := secrets.List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("list node passwords: %w", err)
	}
	for _, secret := range list.Items {
		node, found := strings.CutSuffix(secret.Name, nodePasswordSuffix)
		if !found || present[node] || time.Since(secret.CreationTimestamp.Time) < passwordGrace {
			continue
		}
		if err := secrets.Delete(ctx, secret.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("forget the password of node %s: %w", node, err)
		}
	}
	return nil
}

// initializeNode makes addresses, labels and provider ID of what the node's agent
// has annotated, and then lifts the taint that keeps pods away until that is done.
func (s *server) initializeNode(ctx context.Context, node *corev1.Node) error {
	addresses := nodeAddresses(node)
	if addresses == nil {
		return nil // its agent has not spoken yet
	}
	if !slices.Equal(addresses, node.Status.Addresses) {
		if err := s.patchNode(ctx, node.Name, map[string]any{"status": map[string]any{"addresses": addresses}}, "status"); err != nil {
			return err
		}
	}
	if patch := nodePatch(node); patch != nil {
		return s.patchNode(ctx, node.Name, patch)
	}
	return nil
}

func (s *server) patchNode(ctx context.Context, name string, patch any, subresources ...string) error {
	b, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = s.api.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, b, metav1.PatchOptions{}, subresources...)
	if apierrors.IsConflict(err) {
		return nil // another server was first
	}
	return err
}

func nodeAddresses(node *corev1.Node) []corev1.NodeAddress {
	var addresses []corev1.NodeAddress
	for _, from := range []struct {
		annotation string
		kind       corev1.NodeAddressType
	}{
		{"k3s.io/internal-ip", corev1.NodeInternalIP},
		{"k3s.io/external-ip", corev1.NodeExternalIP},
	} {
		for _, ip := range strings.Split(node.Annotations[from.annotation], ",") {
			if ip != "" {
				addresses = append(addresses, corev1.NodeAddress{Type: from.kind, Address: ip})
			}
		}
	}
	if len(addresses) == 0 {
		return nil
	}
	return append(addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: node.Name})
}

// nodePatch returns nil when the node is as it should be.
func nodePatch(node *corev1.Node) map[string]any {
	want := map[string]string{"node.kubernetes.io/instance-type": "k3s"}
	if node.Annotations[etcdNameAnnotation] != "" {
		want["node-role.kubernetes.io/control-plane"] = "true"
		want["node-role.kubernetes.io/etcd"] = "true"
	}
	missing := map[string]string{}
	for name, v := range want {
		if node.Labels[name] != v {
			missing[name] = v
		}
	}
	taints := slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t corev1.Taint) bool { return t.Key == uninitialized })
	fresh := len(taints) < len(node.Spec.Taints)
	if len(missing) == 0 && !fresh {
		return nil
	}
	// The version makes sure that no taint set since is lost.
	patch := map[string]any{"metadata": map[string]any{"labels": missing, "resourceVersion": node.ResourceVersion}}
	if fresh {
		patch["spec"] = map[string]any{"taints": taints, "providerID": "k3s://" + node.Name}
	}
	return patch
}
