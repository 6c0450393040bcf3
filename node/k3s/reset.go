package k3s

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	// resetFlag is K3s's own mark of a reset that it has done and not started from
	// yet: it refuses another one.
	resetFlag = dataDir + "/server/db/reset-flag"
	// resetTimeout bounds one reset: etcd opens its database, writes a configuration
	// and ends.
	resetTimeout = 5 * time.Minute
	// resetGrace is left to K3s to end by itself when it is told to.
	resetGrace = 20 * time.Second
	// resetTail is how much of K3s's output an error repeats.
	resetTail = 600
)

// ResetCluster implements Distro
// (docs.k3s.io/datastore/backup-restore#restoring-a-snapshot-to-existing-nodes).
func (d *Driver) ResetCluster(ctx context.Context, spec Spec) error {
	if spec.Role != Server || spec.Join != "" || spec.ClusterInit || spec.DatastoreEndpoint != "" {
		return errors.New("reset the cluster: only a server that goes on with its own etcd can be reset")
	}
	if err := spec.Validate(); err != nil {
		return err
	}
	d.acting.Lock()
	defer d.acting.Unlock()
	if err := errors.Join(checkForeign(d.opts.Root), spec.checkDisk(d.opts.Root)); err != nil {
		return err
	}
	if err := d.stop(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(d.opts.Root + resetFlag); err == nil {
		return nil // done, and not started since
	}
	binary, err := d.binaries.find(ctx)
	if err != nil {
		return err
	}
	args, err := spec.argv()
	if err != nil {
		return err
	}
	text, err := spec.render()
	if err != nil {
		return err
	}
	if _, err := writeChanged(d.opts.Root+configFile, text, 0o600); err != nil {
		return fmt.Errorf("write K3s configuration: %w", err)
	}
	if err := os.RemoveAll(d.opts.Root + passwdFile); err != nil {
		return fmt.Errorf("reset the cluster: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, resetTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{string(Server), "--cluster-reset"}, args...)...)
	cmd.Env = environment(os.Environ(), spec.Env)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = resetGrace
	if err := cmd.Run(); err != nil {
		text := out.String()
		for _, secret := range []string{spec.ServerToken, spec.AgentToken} {
			text = strings.ReplaceAll(text, secret, "(token)")
		}
		return fmt.Errorf("reset the cluster: k3s server --cluster-reset: %w: %s", err, strings.TrimSpace(text[max(0, len(text)-resetTail):]))
	}
	d.opts.Log.Info("reset the cluster to this node alone")
	return nil
}
