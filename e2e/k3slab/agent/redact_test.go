package agent

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

func TestSecretsStayOutOfTheNodesAnnotation(t *testing.T) {
	args := []string{"server", "--token", "hunter2", "--agent-token=hunter2", "-t", "hunter2", "--node-name", "n1", "--token"}
	got := redact(args)
	require.NotContains(t, got, "hunter2")
	require.Equal(t, "--agent-token="+hidden, got[3])
	require.Equal(t, []string{"--node-name", "n1", "--token"}, got[6:])
	require.Equal(t, "hunter2", args[2], "the original is left alone")
}

func TestTaintsAreParsedOrRefused(t *testing.T) {
	taints, err := parseTaints([]string{"a=b:NoSchedule", "c:NoExecute"})
	require.NoError(t, err)
	require.Equal(t, []corev1.Taint{{Key: "a", Value: "b", Effect: corev1.TaintEffectNoSchedule}, {Key: "c", Effect: corev1.TaintEffectNoExecute}}, taints)
	for _, wrong := range []string{"a=b", ":NoSchedule", "a:"} {
		_, err := parseTaints([]string{wrong})
		require.ErrorContains(t, err, "--node-taint", wrong)
	}
}
