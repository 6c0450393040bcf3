// Package datastore runs the embedded etcd of a server and joins it to the etcd
// of the others.
//
// A joining member adds itself as a learner and asks the voters to promote it
// (K3s promotes from the leader's side; what is seen from outside is the same).
package datastore

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/muster-edge/muster/e2e/k3slab/pki"
	"github.com/muster-edge/muster/e2e/k3slab/supervisor"
)

// Endpoint is where a server's own etcd answers its clients.
const Endpoint = "https://127.0.0.1:2379"

// ErrStopped means that etcd ended by itself, as it does when the member has been
// removed from the cluster.
var ErrStopped = errors.New("etcd server stopped (this member was removed from the cluster?)")

// Peers tells a joining member who is in the cluster already.
type Peers interface {
	Members(ctx context.Context) ([]supervisor.Member, error)
}

// Config says how to start a member.
type Config struct {
	// Dir holds the data, TLSDir the authorities server-ca and peer-ca.
	Dir    string
	TLSDir string
	// NodeName and NodeIP are those of the server.
	NodeName string
	NodeIP   string
	// Args are values of --etcd-arg.
	Args []string
	// Join is nil for a server that starts a cluster. A member that has data
	// asks nobody.
	Join Peers
	// Reset makes this member the only one of its cluster.
	Reset bool
}

// Etcd is a running member.
type Etcd struct {
	name   string
	dir    string
	tlsDir string
	embed  *embed.Etcd
}

// Exists reports whether there is a member's data in dir.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "member", "wal"))
	return err == nil
}

// Start brings up a member and returns once it serves. Joining waits for the
// cluster as long as ctx lasts; the error wraps supervisor.ErrRejected when
// waiting cannot help.
func Start(ctx context.Context, config Config) (*Etcd, error) {
	if err := issueCertificates(config); err != nil {
		return nil, err
	}
	if err := buryRemoved(config.Dir, time.Now()); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	name, err := memberName(config.Dir, config.NodeName)
	if err != nil {
		return nil, err
	}
	embedConfig, err := newEmbedConfig(config, name)
	if err != nil {
		return nil, err
	}
	e := &Etcd{name: name, dir: config.Dir, tlsDir: config.TLSDir}
	var voters []string
	if config.Join != nil && !Exists(config.Dir) {
		var initial string
		if initial, voters, err = e.join(ctx, config); err != nil {
			return nil, err
		}
		embedConfig.InitialCluster = initial
		embedConfig.ClusterState = embed.ClusterStateFlagExisting
	}
	if e.embed, err = embed.StartEtcd(embedConfig); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	if err := e.becomeReady(ctx, voters); err != nil {
		e.Close()
		return nil, err
	}
	slog.Info("etcd member is ready", "name", name)
	return e, nil
}

// Name is the member's name: the node's, and a suffix that a wiped node draws
// anew, so that a returning node is a new member.
func (e *Etcd) Name() string { return e.name }

// Wait returns when ctx ends, or with an error when etcd has ended by itself.
func (e *Etcd) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-e.embed.Err():
		return fmt.Errorf("etcd: %w", err)
	case <-e.embed.Server.StopNotify():
		if ctx.Err() != nil {
			return nil
		}
		return errors.Join(ErrStopped, e.entomb())
	}
}

// Close hands leadership over and stops the member. Its listeners stay for the
// process to end with: closing them gracefully would wait, for up to 15 s, for the
// watches of the API server in the same process.
func (e *Etcd) Close() { e.embed.Server.Stop() }

func (e *Etcd) becomeReady(ctx context.Context, voters []string) error {
	if len(voters) > 0 {
		if err := e.promote(ctx, voters); err != nil {
			return err
		}
	}
	select {
	case <-e.embed.Server.ReadyNotify():
		return nil
	case err := <-e.embed.Err():
		return fmt.Errorf("start etcd: %w", err)
	case <-e.embed.Server.StopNotify():
		return errors.Join(ErrStopped, e.entomb())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tombstone, in the data of a member that was removed, makes its next start move
// the data aside and join anew, or found a cluster where there is no server to
// join. Name and effect are K3s's.
const tombstone = "tombstone"

func (e *Etcd) entomb() error {
	slog.Warn("this node has been removed from the etcd cluster; it joins anew when it is started again")
	return pki.WriteFile(filepath.Join(e.dir, tombstone), nil, 0o600)
}

// buryRemoved moves the data of a removed member aside.
func buryRemoved(dir string, now time.Time) error {
	_, err := os.Stat(filepath.Join(dir, tombstone))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		aside := fmt.Sprintf("%s-old-%d", dir, now.UnixNano())
		slog.Warn("tombstone file has been detected, moving the etcd data aside to rejoin the cluster", "to", aside)
		err = os.Rename(dir, aside)
	}
	if err != nil {
		return fmt.Errorf("bury the data of a removed etcd member: %w", err)
	}
	return nil
}

func issueCertificates(config Config) error {
	serverCA, err := pki.LoadAuthority(filepath.Join(config.TLSDir, "server-ca"))
	if err != nil {
		return err
	}
	peerCA, err := pki.LoadAuthority(filepath.Join(config.TLSDir, "peer-ca"))
	if err != nil {
		return err
	}
	sans := []string{"localhost", "127.0.0.1", "::1", config.NodeIP, config.NodeName}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return errors.Join(
		serverCA.Issue(filepath.Join(config.TLSDir, "server-client"), pki.Leaf{CommonName: "etcd-server", SANs: sans, Usages: both}),
		serverCA.Issue(filepath.Join(config.TLSDir, "client"), pki.Leaf{CommonName: "etcd-client", Usages: both[1:]}),
		peerCA.Issue(filepath.Join(config.TLSDir, "peer-server-client"), pki.Leaf{CommonName: "etcd-peer", SANs: sans, Usages: both}),
	)
}

func memberName(dir, nodeName string) (string, error) {
	path := filepath.Join(dir, "name")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the etcd member's name: %w", err)
	}
	if name := strings.TrimSpace(string(b)); name != "" {
		return name, nil
	}
	suffix := make([]byte, 4)
	if _, err := rand.Read(suffix); err != nil {
		return "", fmt.Errorf("draw an etcd member name: %w", err)
	}
	name := nodeName + "-" + hex.EncodeToString(suffix)
	return name, pki.WriteFile(path, []byte(name), 0o600)
}

func peerURL(nodeIP string) string { return "https://" + net.JoinHostPort(nodeIP, "2380") }

func newEmbedConfig(config Config, name string) (*embed.Config, error) {
	peer, client := peerURL(config.NodeIP), "https://"+net.JoinHostPort(config.NodeIP, "2379")
	c := embed.NewConfig()
	c.Name, c.Dir = name, config.Dir
	for _, set := range []struct {
		to   *[]url.URL
		urls []string
	}{
		{&c.ListenClientUrls, []string{Endpoint, client}},
		{&c.AdvertiseClientUrls, []string{client}},
		{&c.ListenPeerUrls, []string{"https://127.0.0.1:2380", peer}},
		{&c.AdvertisePeerUrls, []string{peer}},
		{&c.ListenMetricsUrls, []string{"http://127.0.0.1:2381"}},
	} {
		*set.to = nil
		for _, s := range set.urls {
			u, err := url.Parse(s)
			if err != nil {
				return nil, fmt.Errorf("node IP %q: %w", config.NodeIP, err)
			}
			*set.to = append(*set.to, *u)
		}
	}
	c.ClientTLSInfo = tlsInfo(config.TLSDir, "server-client", "server-ca")
	c.PeerTLSInfo = tlsInfo(config.TLSDir, "peer-server-client", "peer-ca")
	c.InitialCluster = name + "=" + peer
	c.ForceNewCluster = config.Reset
	c.LogLevel = "warn"
	c.LogOutputs = []string{"stderr"}
	// embed.NewConfig leaves 0, which warns of every single request.
	c.WarningUnaryRequestDuration = 300 * time.Millisecond
	// K3s' timers, five times etcd's own.
	c.TickMs, c.ElectionMs = 500, 5000
	return c, applyArgs(c, config.Args)
}

func tlsInfo(dir, leaf, authority string) transport.TLSInfo {
	certFile, keyFile := pki.Pair(filepath.Join(dir, leaf))
	caFile, _ := pki.Pair(filepath.Join(dir, authority))
	return transport.TLSInfo{CertFile: certFile, KeyFile: keyFile, TrustedCAFile: caFile, ClientCertAuth: true}
}
