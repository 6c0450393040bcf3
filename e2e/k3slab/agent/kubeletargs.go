package agent

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
)

// applyKubeletArgs sets the kubelet flags that mean something to a hollow
// kubelet; the rest are accepted, since its runtime could not obey them.
func applyKubeletArgs(c *kubeletconfig.KubeletConfiguration, args []string) error {
	for _, arg := range args {
		name, v, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		var err error
		switch name {
		case "max-pods":
			var n int64
			n, err = strconv.ParseInt(v, 10, 32)
			c.MaxPods = int32(n)
		case "node-status-update-frequency":
			c.NodeStatusUpdateFrequency.Duration, err = time.ParseDuration(v)
		case "node-status-report-frequency":
			c.NodeStatusReportFrequency.Duration, err = time.ParseDuration(v)
		case "node-lease-duration-seconds":
			var n int64
			n, err = strconv.ParseInt(v, 10, 32)
			c.NodeLeaseDurationSeconds = int32(n)
		default:
			slog.Info("--kubelet-arg accepted and ignored", "name", name)
		}
		if err != nil {
			return fmt.Errorf("--kubelet-arg=%s: %w", name, err)
		}
	}
	return nil
}
