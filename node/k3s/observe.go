package k3s

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Paths where K3s keeps what the driver reads.
const (
	dataDir           = "/var/lib/rancher/k3s"
	adminKubeconfig   = "/etc/rancher/k3s/k3s.yaml"
	kubeletKubeconfig = dataDir + "/agent/kubelet.kubeconfig"
	serverCA          = dataDir + "/server/tls/server-ca.crt"
)

// observeTimeout is the timeout of an observer.
const observeTimeout = 3 * time.Second

// maxAnswer bounds an answer of the API server in bytes; etcd holds no object
// above 1.5 MiB.
const maxAnswer = 4 << 20

// observer asks K3s's own endpoints how the node does.
type observer struct {
	root string
	// timeout bounds one question to the API server.
	timeout time.Duration
	// client is kept between questions, with the file that it was made from.
	client *apiClient
}

type apiClient struct {
	file  string
	mtime time.Time
	base  string
	http  *http.Client
}

// look returns what can be seen now of a node of the given role and name.
func (o *observer) look(ctx context.Context, role Role, node string) State {
	var s State
	hash, err := caHash(o.root + serverCA)
	if err == nil {
		s.CAHash = hash
	}
	kubeconfig := kubeletKubeconfig
	if role == Server {
		kubeconfig = adminKubeconfig
	}
	client, err := o.open(o.root + kubeconfig)
	if errors.Is(err, fs.ErrNotExist) {
		s.Waiting = "K3s has not made its certificates yet"
		return s
	}
	if err != nil {
		s.Waiting = "K3s's kubeconfig: " + err.Error()
		return s
	}
	if role == Server {
		if _, err := client.get(ctx, "/readyz"); err != nil {
			s.Waiting = "this node's API server is not ready: " + firstLine(err.Error())
			return s
		}
		s.Serving = true
	}
	ready, why, err := client.nodeReady(ctx, node)
	switch {
	case err != nil && role == Agent:
		s.Waiting = "no API server answers this node: " + firstLine(err.Error())
	case err != nil:
		s.Waiting = "the Node object cannot be read: " + firstLine(err.Error())
	case !ready:
		s.Waiting = why
	}
	s.NodeReady = ready
	return s
}

func (o *observer) open(path string) (*apiClient, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if c := o.client; c != nil && c.file == path && c.mtime.Equal(info.ModTime()) {
		return c, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, err
	}
	config.Timeout = o.timeout
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	o.close()
	o.client = &apiClient{file: path, mtime: info.ModTime(), base: strings.TrimSuffix(config.Host, "/"), http: client}
	return o.client, nil
}

func (o *observer) close() {
	if o.client != nil {
		o.client.http.CloseIdleConnections()
		o.client = nil
	}
}

func (c *apiClient) get(ctx context.Context, path string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, path, nil)
}

// delete deletes the object with that UID, and no later one of the same name.
func (c *apiClient) delete(ctx context.Context, path, uid string) error {
	options := map[string]any{"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": map[string]string{"uid": uid}}
	body, err := json.Marshal(options)
	if err == nil {
		_, err = c.do(ctx, http.MethodDelete, path, body)
	}
	return err
}

func (c *apiClient) do(ctx context.Context, method, path string, sent []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(sent))
	if err != nil {
		return nil, err
	}
	if sent != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, &statusError{method: method, path: path, code: response.StatusCode, status: response.Status}
	}
	return body, nil
}

// statusError is an answer that says no.
type statusError struct {
	method string
	path   string
	code   int
	status string
}

func (e *statusError) Error() string { return fmt.Sprintf("%s %s: %s", e.method, e.path, e.status) }

func (c *apiClient) nodeReady(ctx context.Context, name string) (ready bool, why string, err error) {
	body, err := c.get(ctx, "/api/v1/nodes/"+url.PathEscape(name))
	var no *statusError
	if errors.As(err, &no) && no.code == http.StatusNotFound {
		return false, fmt.Sprintf("Node %s has not registered yet", name), nil
	}
	if err != nil {
		return false, "", err
	}
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status, Reason, Message string }
		}
	}
	if err := json.Unmarshal(body, &node); err != nil {
		return false, "", fmt.Errorf("read Node %s: %w", name, err)
	}
	for _, c := range node.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True", fmt.Sprintf("Node %s is not Ready: %s", name, firstLine(c.Message)), nil
		}
	}
	return false, fmt.Sprintf("Node %s has not reported yet", name), nil
}

// caHash is the hash in K3s's secure tokens: SHA-256 over the CA file as the
// server hands it out at /cacerts, in hex.
func caHash(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// KnownCAHash returns the SHA-256 of the cluster CA that this machine's server
// holds from an earlier start, or "" when it holds none.
func KnownCAHash() string {
	hash, err := caHash(serverCA)
	if err != nil {
		return ""
	}
	return hash
}

// AdminKubeconfig reads the admin kubeconfig that K3s wrote on this server. It
// speaks of 127.0.0.1.
func AdminKubeconfig() ([]byte, error) {
	text, err := os.ReadFile(adminKubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the admin kubeconfig: %w", err)
	}
	return text, nil
}
