package k3s

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

func forgetNode(ctx context.Context, root, name string, still func(context.Context) error) error {
	fail := func(err error) error { return fmt.Errorf("forget Node %s: %w", name, err) }
	o := &observer{root: root, timeout: 2 * observeTimeout}
	defer o.close()
	client, err := o.open(root + adminKubeconfig)
	if err != nil {
		return fail(err)
	}
	found := map[string]string{} // UIDs by path
	paths := []string{
		"/api/v1/nodes/" + url.PathEscape(name),
		"/api/v1/namespaces/kube-system/secrets/" + url.PathEscape(name+".node-password.k3s"),
	}
	for _, path := range paths {
		body, err := client.get(ctx, path)
		if answered(err, http.StatusNotFound) {
			continue
		}
		var object struct{ Metadata struct{ UID string } }
		if err == nil {
			err = json.Unmarshal(body, &object)
		}
		if err == nil && object.Metadata.UID == "" {
			err = fmt.Errorf("GET %s: an object without a UID", path)
		}
		if err != nil {
			return fail(err)
		}
		found[path] = object.Metadata.UID
	}
	if len(found) == 0 {
		return nil
	}
	if err := still(ctx); err != nil {
		return fail(err)
	}
	for _, path := range paths {
		uid, there := found[path]
		if !there {
			continue
		}
		err := client.delete(ctx, path, uid)
		// With a conflict there is another one by now, which stays.
		if err != nil && !answered(err, http.StatusNotFound) && !answered(err, http.StatusConflict) {
			return fail(err)
		}
	}
	return nil
}

// answered tells whether the API server said no with this code.
func answered(err error, code int) bool {
	var no *statusError
	return errors.As(err, &no) && no.code == code
}

// HoldsVolumes tells whether pods keep data on this machine's disk.
func HoldsVolumes() bool { return holdsVolumes("") }
