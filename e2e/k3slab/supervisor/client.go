package supervisor

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/muster-edge/muster/e2e/k3slab/pki"
	"github.com/muster-edge/muster/e2e/k3slab/token"
)

const requestTimeout = 20 * time.Second

// Client speaks to a server's supervisor under a token.
type Client struct {
	url   string
	token token.Token
	ca    []byte
	http  *http.Client
}

// Dial fetches the CA bundle of the server at url and holds it against the
// token's hash, if the token has one. The error wraps ErrRejected when the server
// is not the one that the token is for.
func Dial(ctx context.Context, url string, t token.Token) (*Client, error) {
	url = strings.TrimSuffix(url, "/")
	// Not verified: the bundle is checked against the token's hash, and a bare
	// password trusts the first answer, as K3s does.
	blind := newHTTPClient(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // see above
	ca, err := fetch(ctx, blind, http.MethodGet, url+pathCACerts, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("failed to get CA certs: %w", err)
	}
	if got := token.CAHash(ca); t.CAHash != "" && t.CAHash != got {
		return nil, fmt.Errorf("%w: token CA hash does not match the Cluster CA certificate hash: %s != %s", ErrRejected, t.CAHash, got)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("failed to get CA certs: %s%s holds none", url, pathCACerts)
	}
	return &Client{url: url, token: t, ca: ca, http: newHTTPClient(&tls.Config{RootCAs: roots})}, nil
}

// CA is the bundle that the server's certificate was verified with.
func (c *Client) CA() []byte { return c.ca }

// Config fetches the cluster's configuration, which also proves the token.
func (c *Client) Config(ctx context.Context) (Config, error) {
	var config Config
	err := c.getJSON(ctx, pathConfig, &config)
	return config, err
}

// APIServers fetches the host:port of every server's API.
func (c *Client) APIServers(ctx context.Context) ([]string, error) {
	var servers []string
	err := c.getJSON(ctx, pathAPIServers, &servers)
	return servers, err
}

// Members fetches the datastore's members. The error wraps ErrRejected and
// ErrDatastoreDisabled when the server has none to join.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	var list memberList
	err := c.getJSON(ctx, pathMembers, &list)
	return list.Members, err
}

// Bootstrap fetches the cluster's identity and writes it below dir.
func (c *Client) Bootstrap(ctx context.Context, dir string) error {
	files := map[string][]byte{}
	if err := c.getJSON(ctx, pathBootstrap, &files); err != nil {
		return err
	}
	return WriteIdentity(dir, files)
}

// Node is what a node proves and says of itself when it asks for certificates.
type Node struct {
	Name     string
	Password string
	IPs      []string
}

// Certificate asks for a kubelet certificate of a kind and writes it, with a new
// key, to base.crt and base.key.
func (c *Client) Certificate(ctx context.Context, kind, base string, node Node) error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	request, err := pki.NewRequest(node.Name, key)
	if err != nil {
		return err
	}
	chain, err := c.do(ctx, http.MethodPost, pathCertificate(kind), request, http.Header{
		headerNodeName:     {node.Name},
		headerNodePassword: {node.Password},
		headerNodeIP:       {strings.Join(node.IPs, ",")},
	})
	if err != nil {
		return err
	}
	certFile, keyFile := pki.Pair(base)
	if err := pki.WriteKey(keyFile, key); err != nil {
		return err
	}
	return pki.WriteFile(certFile, chain, 0o644)
}

func (c *Client) getJSON(ctx context.Context, path string, into any) error {
	b, err := c.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s%s: %w", c.url, path, err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, body []byte, header http.Header) ([]byte, error) {
	if header == nil {
		header = http.Header{}
	}
	r := http.Request{Header: header}
	r.SetBasicAuth(c.token.User, c.token.Password)
	b, err := fetch(ctx, c.http, method, c.url+path, body, header)
	var refused *statusError
	if errors.As(err, &refused) {
		switch {
		case refused.code == http.StatusUnauthorized:
			return nil, fmt.Errorf("%w: %w", ErrRejected, err)
		case refused.code == http.StatusNotFound && path == pathMembers:
			return nil, fmt.Errorf("%w: %w (was the server started without --cluster-init?): %w", ErrRejected, ErrDatastoreDisabled, err)
		}
	}
	return b, err
}

type statusError struct {
	url     string
	code    int
	message string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: %d %s: %s", e.url, e.code, http.StatusText(e.code), e.message)
}

func newHTTPClient(config *tls.Config) *http.Client {
	config.MinVersion = tls.VersionTLS12
	// Connections are not kept: through an agent's balancer a kept one would
	// stick to a server that has gone.
	return &http.Client{Timeout: requestTimeout, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

func fetch(ctx context.Context, client *http.Client, method, url string, body []byte, header http.Header) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if header != nil {
		request.Header = header
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if len(b) > maxBody {
		return nil, fmt.Errorf("%s: answer larger than %d bytes", url, maxBody)
	}
	if response.StatusCode != http.StatusOK {
		var s status
		// Anything but a Status object leaves the message empty; the code remains.
		_ = json.Unmarshal(b, &s)
		return nil, &statusError{url: url, code: response.StatusCode, message: s.Message}
	}
	return b, nil
}
