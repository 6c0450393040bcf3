package k3s

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

func forgetNode(ctx context.Context, root, name string) error {
	o := &observer{root: root, timeout: 2 * observeTimeout}
	defer o.close()
	client, err := o.open(root + adminKubeconfig)
	if err != nil {
		return fmt.Errorf("forget Node %s: %w", name, err)
	}
	for _, path := range []string{
		"/api/v1/nodes/" + url.PathEscape(name),
		"/api/v1/namespaces/kube-system/secrets/" + url.PathEscape(name+".node-password.k3s"),
	} {
		err := client.delete(ctx, path)
		var no *statusError
		if errors.As(err, &no) && no.code == http.StatusNotFound {
			continue
		}
		if err != nil {
			return fmt.Errorf("forget Node %s: %w", name, err)
		}
	}
	return nil
}

// HoldsVolumes tells whether pods keep data on this machine's disk.
func HoldsVolumes() bool { return holdsVolumes("") }
