// Package agent runs a node: it fetches the node's certificates from a server and
// runs a hollow kubelet, kubemark's: the real kubelet's code over a container
// runtime that pretends.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/muster-edge/muster/e2e/k3slab/balancer"
	"github.com/muster-edge/muster/e2e/k3slab/flags"
	"github.com/muster-edge/muster/e2e/k3slab/host"
	"github.com/muster-edge/muster/e2e/k3slab/supervisor"
	"github.com/muster-edge/muster/e2e/k3slab/token"
)

const (
	joinRetry     = 2 * time.Second
	serversEvery  = 10 * time.Second
	balancerState = "agent/etc/k3s-agent-load-balancer.json"
)

// Run is `k3s agent`. It returns nil when ctx ends.
func Run(ctx context.Context, options *flags.Options) error {
	self, err := host.Describe(options)
	if err != nil {
		return err
	}
	join, err := joinTarget(options)
	if err != nil {
		return err
	}
	tok, err := joinToken(options)
	if err != nil {
		return err
	}
	lb, err := balancer.Listen(net.JoinHostPort("127.0.0.1", options.Get("lb-server-port", "6444")), join, filepath.Join(self.DataDir, balancerState))
	if err != nil {
		return err
	}
	defer lb.Close()
	api := "https://" + lb.Addr().String()
	client, err := waitForServer(ctx, api, join, tok)
	if err != nil {
		return err
	}
	// K3s tells systemd as soon as it has its configuration, not when the node
	// is Ready.
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		slog.Warn("notifying systemd", "error", err)
	}
	node := &Node{Host: self, Options: options, API: api, Supervisor: client}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { lb.Follow(ctx, serversEvery, client.APIServers); return nil })
	group.Go(func() error { return node.Run(ctx) })
	return group.Wait()
}

// joinTarget returns the host:port of --server.
func joinTarget(options *flags.Options) (string, error) {
	server := options.Get("server", "")
	if server == "" {
		return "", errors.New("--server is required")
	}
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return "", fmt.Errorf("invalid --server %q: not an https URL", server)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// joinToken reads --token, or the server's --agent-token from an environment
// that is shared with it.
func joinToken(options *flags.Options) (token.Token, error) {
	line, err := options.Token()
	if err != nil {
		return token.Token{}, err
	}
	if line == "" {
		if line, err = options.AgentToken(); err != nil {
			return token.Token{}, err
		}
	}
	if line == "" {
		return token.Token{}, errors.New("--token is required")
	}
	return token.Parse(line, token.Node)
}

// waitForServer retries for ever, even when the token is rejected: a K3s agent
// does not exit over it.
func waitForServer(ctx context.Context, api, join string, tok token.Token) (*supervisor.Client, error) {
	for {
		client, err := supervisor.Dial(ctx, api, tok)
		if err == nil {
			if _, err = client.Config(ctx); err == nil {
				return client, nil
			}
		}
		slog.Error("failed to get configuration", "server", join, "error", err)
		if err := host.Pause(ctx, joinRetry); err != nil {
			return nil, err
		}
	}
}

// TemporaryDir empties and returns the folder that TMPDIR must name before a
// kubelet starts: kubemark leaves hollow-kubelet.* and kubelet_remote_*.sock
// behind at every start.
func TemporaryDir(dataDir string) (string, error) {
	dir := filepath.Join(dataDir, "agent", "tmp")
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("empty the temporary folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the temporary folder: %w", err)
	}
	return dir, nil
}
