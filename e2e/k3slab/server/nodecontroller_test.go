package server

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAServersNodeGetsAddressesRolesAndLosesItsTaint(t *testing.T) {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", ResourceVersion: "7", Annotations: map[string]string{
			"k3s.io/internal-ip": "10.1.0.1,fd00::1", "k3s.io/external-ip": "192.0.2.1", etcdNameAnnotation: "n1-abcd",
		}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: uninitialized}, {Key: "kept"}}},
	}
	require.Equal(t, []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "10.1.0.1"},
		{Type: corev1.NodeInternalIP, Address: "fd00::1"},
		{Type: corev1.NodeExternalIP, Address: "192.0.2.1"},
		{Type: corev1.NodeHostName, Address: "n1"},
	}, nodeAddresses(node))

	patch := nodePatch(node)
	labels := patch["metadata"].(map[string]any)["labels"].(map[string]string)
	require.Equal(t, "true", labels["node-role.kubernetes.io/etcd"])
	require.Equal(t, []corev1.Taint{{Key: "kept"}}, patch["spec"].(map[string]any)["taints"])

	node.Labels, node.Spec.Taints = labels, []corev1.Taint{{Key: "kept"}}
	require.Nil(t, nodePatch(node), "a node that is as it should be is left alone")
}

func TestAnAgentGetsNoRoleAndNothingBeforeItSpeaks(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n4"}}
	require.Nil(t, nodeAddresses(node))
	labels := nodePatch(node)["metadata"].(map[string]any)["labels"].(map[string]string)
	require.Equal(t, map[string]string{"node.kubernetes.io/instance-type": "k3s"}, labels)
}

func TestTheServiceAddressIsTheFirstOfItsRange(t *testing.T) {
	ip, err := firstServiceIP("10.43.7.9/16")
	require.NoError(t, err)
	require.Equal(t, "10.43.0.1", ip)
	_, err = firstServiceIP("10.43.0.0")
	require.ErrorContains(t, err, "--service-cidr")
}
