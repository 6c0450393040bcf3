package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// adminKubeconfig is where K3s writes the administrator's credentials on a server.
const adminKubeconfig = "/etc/rancher/k3s/k3s.yaml"

// Kubectl runs kubectl with the administrator's kubeconfig in the first master that is ready; if none is, in the first that has
// one, because an ill cluster is what one wants to look at.
func (l *Lab) Kubectl(ctx context.Context, c Command) error {
	rows, err := l.Status(ctx)
	if err != nil {
		return err
	}
	chosen := ""
	for _, row := range rows {
		if row.PID == 0 {
			continue
		}
		if _, err := os.Stat(filepath.Join(l.nodeDir(row.Node), "etc-rancher", strings.TrimPrefix(adminKubeconfig, "/etc/rancher"))); err != nil {
			continue
		}
		if row.Ready && strings.HasPrefix(row.Role, "master") {
			chosen = row.Node
			break
		}
		if chosen == "" {
			chosen = row.Node
		}
	}
	if chosen == "" {
		return errors.New("kubectl: no node that is up has a kubeconfig yet: `muster lab status` shows how far they are")
	}
	// k3s is kubectl too, under its own name, where a node has installed k3s by itself and there is no link.
	const script = `if command -v kubectl >/dev/null; then exec kubectl "$@"; else exec k3s kubectl "$@"; fi`
	c.Args = append([]string{"/bin/sh", "-c", script, "kubectl"}, c.Args...)
	c.Env = append(c.Env, "KUBECONFIG="+adminKubeconfig)
	if err := l.Run(ctx, chosen, c); err != nil {
		return fmt.Errorf("kubectl: %w", err)
	}
	return nil
}
