package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/muster-edge/muster/e2e/k3slab/host"
	"github.com/muster-edge/muster/e2e/k3slab/pki"
	"github.com/muster-edge/muster/e2e/k3slab/supervisor"
	"github.com/muster-edge/muster/e2e/k3slab/token"
)

const joinRetry = 2 * time.Second

// credentials are the tokens and authorities of a cluster, below <data>/server.
type credentials struct {
	dir string
	// join speaks to the server of --server; nil without one, and for a member
	// that came back while nobody else was there.
	join *supervisor.Client
	// own is this server's full token.
	own           token.Token
	agentPassword string

	serverCA, clientCA, requestHeaderCA *pki.Authority
}

func (c *credentials) tls(names ...string) string {
	return filepath.Join(append([]string{c.dir, "tls"}, names...)...)
}

// bootstrapped reports whether the cluster's identity is on disk: server-ca.crt
// is written last.
func (c *credentials) bootstrapped() bool {
	_, err := os.Stat(c.tls("server-ca.crt"))
	return err == nil
}

// prepareCredentials makes the cluster's identity, or fetches it from the server
// that this one joins, and issues this server's certificates.
func (s *server) prepareCredentials(ctx context.Context) error {
	c := &s.credentials
	password, err := s.obtainIdentity(ctx)
	if err != nil {
		return err
	}
	if c.serverCA, err = pki.LoadAuthority(c.tls("server-ca")); err != nil {
		return err
	}
	if c.clientCA, err = pki.LoadAuthority(c.tls("client-ca")); err != nil {
		return err
	}
	if c.requestHeaderCA, err = pki.LoadAuthority(c.tls("request-header-ca")); err != nil {
		return err
	}
	c.own = token.Token{CAHash: token.CAHash(c.serverCA.PEM), User: token.Server, Password: password}
	if err := s.writeTokens(); err != nil {
		return err
	}
	if err := s.issueCertificates(); err != nil {
		return err
	}
	return s.writeKubeconfigs()
}

// obtainIdentity returns the server password once the authorities are on disk.
func (s *server) obtainIdentity(ctx context.Context) (string, error) {
	c := &s.credentials
	line, err := s.options.Token()
	if err != nil {
		return "", err
	}
	recorded, err := readToken(filepath.Join(c.dir, "token"))
	if err != nil {
		return "", err
	}
	tok := recorded
	if line != "" {
		if tok, err = token.Parse(line, token.Server); err != nil {
			return "", err
		}
	}
	known := c.bootstrapped()
	if known && recorded.Password != "" && recorded.Password != tok.Password {
		return "", errors.New("bootstrap data already found and encrypted with different token")
	}
	url := s.options.Get("server", "")
	switch {
	case url != "" && tok.Password == "":
		return "", errors.New("--token is required to join a cluster")
	case url != "":
		err = c.fetch(ctx, url, tok, known)
	case !known && s.external != nil:
		err = s.shareIdentity(ctx, tok.Password)
	case !known:
		err = c.create()
	}
	if err != nil {
		return "", err
	}
	if tok.Password == "" {
		secret := make([]byte, 16)
		if _, err := rand.Read(secret); err != nil {
			return "", fmt.Errorf("draw a token: %w", err)
		}
		return hex.EncodeToString(secret), nil
	}
	return tok.Password, nil
}

// fetch joins the cluster at url. A member that has the identity already tries
// once and goes on without an answer: after a power failure the servers name one
// another and none is up.
func (c *credentials) fetch(ctx context.Context, url string, tok token.Token, known bool) error {
	for {
		client, err := supervisor.Dial(ctx, url, tok)
		if err == nil && !known {
			err = client.Bootstrap(ctx, c.tls())
		}
		if err == nil {
			c.join = client
			return nil
		}
		if errors.Is(err, supervisor.ErrRejected) {
			return fmt.Errorf("failed to validate token: %w", err)
		}
		if known {
			slog.Warn("going on with the data on disk", "server", url, "error", err)
			return ctx.Err()
		}
		slog.Warn("waiting for the server to join", "server", url, "error", err)
		if err := host.Pause(ctx, joinRetry); err != nil {
			return err
		}
	}
}

func (c *credentials) create() error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	if err := pki.WriteKey(c.tls("service.key"), key); err != nil {
		return err
	}
	// server-ca last, see bootstrapped.
	for _, name := range []string{"client-ca", "request-header-ca", "etcd/server-ca", "etcd/peer-ca", "server-ca"} {
		if err := pki.CreateAuthority(c.tls(name), "k3s-"+strings.ReplaceAll(name, "/", "-")); err != nil {
			return err
		}
	}
	return nil
}

// writeTokens leaves token, node-token and agent-token as K3s does: the latter
// two are links unless the agents have a token of their own.
func (s *server) writeTokens() error {
	c := &s.credentials
	line, err := s.options.AgentToken()
	if err != nil {
		return err
	}
	agent := token.Token{CAHash: c.own.CAHash, User: token.Node, Password: c.own.Password}
	if line != "" {
		parsed, err := token.Parse(line, token.Node)
		if err != nil {
			return fmt.Errorf("agent token: %w", err)
		}
		agent.Password = parsed.Password
	}
	c.agentPassword = agent.Password
	if err := c.reconcilePasswords(); err != nil {
		return err
	}
	serverFile, agentFile := filepath.Join(c.dir, "token"), filepath.Join(c.dir, "agent-token")
	if err := pki.WriteFile(serverFile, []byte(c.own.Encode()+"\n"), 0o600); err != nil {
		return err
	}
	if err := link(serverFile, filepath.Join(c.dir, "node-token")); err != nil {
		return err
	}
	if agent.Password == c.own.Password {
		return link(serverFile, agentFile)
	}
	return pki.WriteFile(agentFile, []byte(agent.Encode()+"\n"), 0o600)
}

// reconcilePasswords does with cred/passwd what K3s does: it must be as the datastore has it since the first start, or not be there;
// then it is written anew with the tokens of this start. The datastore's copy is a file beside the datastore here.
func (c *credentials) reconcilePasswords() error {
	file, stored := filepath.Join(c.dir, "cred", "passwd"), filepath.Join(c.dir, "db", "passwd")
	text := []byte(c.agentPassword + ",node,node,k3s:agent\n" + c.own.Password + ",server,server,k3s:server\n")
	before, err := os.ReadFile(stored)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := pki.WriteFile(stored, text, 0o600); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		onDisk, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && !bytes.Equal(onDisk, before) {
			return fmt.Errorf("%s newer than datastore and could cause a cluster outage. Remove the file(s) from disk and restart to be recreated from datastore", file)
		}
	}
	return pki.WriteFile(file, text, 0o600)
}

func (s *server) issueCertificates() error {
	c := &s.credentials
	serviceIP, err := firstServiceIP(s.serviceCIDR)
	if err != nil {
		return err
	}
	sans := []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"localhost", "127.0.0.1", "::1", serviceIP, s.host.Name, s.advertise,
	}
	sans = append(append(append(sans, s.host.IPs...), s.host.ExternalIPs...), s.options.Split("tls-san")...)
	client := func(base, name string, groups ...string) error {
		return c.clientCA.Issue(c.tls(base), pki.Leaf{CommonName: name, Organizations: groups, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	}
	return errors.Join(
		c.serverCA.Issue(c.tls("serving-kube-apiserver"), pki.Leaf{CommonName: "kube-apiserver", SANs: sans, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}),
		c.requestHeaderCA.Issue(c.tls("client-auth-proxy"), pki.Leaf{CommonName: "system:auth-proxy", Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}),
		client("client-admin", "system:admin", "system:masters"),
		client("client-controller", "system:kube-controller-manager"),
		client("client-scheduler", "system:kube-scheduler"),
		client("client-kube-apiserver", "system:apiserver", "system:masters"),
	)
}

// readToken returns the zero Token when there is no file.
func readToken(path string) (token.Token, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return token.Token{}, nil
	}
	if err != nil {
		return token.Token{}, fmt.Errorf("read the recorded token: %w", err)
	}
	t, err := token.Parse(string(b), token.Server)
	if err != nil {
		return token.Token{}, fmt.Errorf("read the recorded token: %w", err)
	}
	return t, nil
}

func link(target, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link %s: %w", path, err)
	}
	if err := os.Symlink(target, path); err != nil {
		return fmt.Errorf("link %s: %w", path, err)
	}
	return nil
}
