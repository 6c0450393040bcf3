package supervisor_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/k3slab/nodepassword"
	"github.com/muster-edge/muster/e2e/k3slab/pki"
	"github.com/muster-edge/muster/e2e/k3slab/supervisor"
	"github.com/muster-edge/muster/e2e/k3slab/token"
)

const (
	serverPassword = "server-password"
	agentPassword  = "agent-password"
)

type cluster struct {
	starting  bool
	members   []supervisor.Member
	noMembers error
	hashes    map[string]string
}

func (c *cluster) Ready() bool { return !c.starting }
func (c *cluster) Members(context.Context) ([]supervisor.Member, error) {
	return c.members, c.noMembers
}

func (c *cluster) APIServers(context.Context) ([]string, error) {
	return []string{"10.1.0.1:6443"}, nil
}
func (c *cluster) NodePasswords() nodepassword.Store { return c }
func (c *cluster) Hash(_ context.Context, node string) (string, error) {
	if hash, ok := c.hashes[node]; ok {
		return hash, nil
	}
	return "", nodepassword.ErrUnknown
}

func (c *cluster) Record(_ context.Context, node, hash string) error {
	c.hashes[node] = hash
	return nil
}

// start serves a supervisor whose authorities are fresh, over TLS.
func start(t *testing.T, c *cluster) (url, tlsDir string) {
	t.Helper()
	c.hashes = map[string]string{}
	tlsDir = t.TempDir()
	for _, name := range []string{"server-ca", "client-ca", "request-header-ca", "etcd/server-ca", "etcd/peer-ca"} {
		require.NoError(t, pki.CreateAuthority(filepath.Join(tlsDir, name), name))
	}
	require.NoError(t, pki.WriteFile(filepath.Join(tlsDir, "service.key"), []byte("key"), 0o600))
	serverCA, err := pki.LoadAuthority(filepath.Join(tlsDir, "server-ca"))
	require.NoError(t, err)
	clientCA, err := pki.LoadAuthority(filepath.Join(tlsDir, "client-ca"))
	require.NoError(t, err)
	s := &supervisor.Server{
		Cluster: c, TLSDir: tlsDir, ServerCA: serverCA, ClientCA: clientCA,
		ServerPassword: serverPassword, NodePassword: agentPassword, Config: supervisor.Config{ClusterIPRange: "10.42.0.0/16"},
	}
	leaf := filepath.Join(tlsDir, "leaf")
	require.NoError(t, serverCA.Issue(leaf, pki.Leaf{CommonName: "server", SANs: []string{"127.0.0.1"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}))
	pair, err := tls.LoadX509KeyPair(pki.Pair(leaf))
	require.NoError(t, err)
	h := httptest.NewUnstartedServer(s.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		supervisor.WriteStatus(w, http.StatusServiceUnavailable, "apiserver not ready")
	})))
	h.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	h.StartTLS()
	t.Cleanup(h.Close)
	return h.URL, tlsDir
}

func dial(t *testing.T, url string, tok token.Token) *supervisor.Client {
	t.Helper()
	client, err := supervisor.Dial(t.Context(), url, tok)
	require.NoError(t, err)
	return client
}

func TestAServerTokenOpensTheClustersIdentity(t *testing.T) {
	url, tlsDir := start(t, &cluster{members: []supervisor.Member{{ID: 1, Name: "n1"}}})
	client := dial(t, url, token.Token{User: token.Server, Password: serverPassword})
	joined := t.TempDir()
	require.NoError(t, client.Bootstrap(t.Context(), joined))
	for _, name := range supervisor.BootstrapFiles {
		want, err := os.ReadFile(filepath.Join(tlsDir, name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(joined, name))
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
	members, err := client.Members(t.Context())
	require.NoError(t, err)
	require.Equal(t, "n1", members[0].Name)
}

func TestAnAgentTokenDoesNotLetAServerJoin(t *testing.T) {
	url, _ := start(t, &cluster{})
	for name, tok := range map[string]token.Token{
		"as an agent":                     {User: token.Node, Password: agentPassword},
		"as a server":                     {User: token.Server, Password: agentPassword},
		"no password":                     {User: token.Server},
		"a user K3s does not have":        {User: "rver", Password: serverPassword},
		"the server's password as a node": {User: token.Node, Password: serverPassword},
	} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, url, tok)
			joined := t.TempDir()
			require.ErrorIs(t, client.Bootstrap(t.Context(), joined), supervisor.ErrRejected)
			_, err := client.Members(t.Context())
			require.ErrorIs(t, err, supervisor.ErrRejected)
			left, err := os.ReadDir(joined)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

func TestBothTokensLetAnAgentIn(t *testing.T) {
	url, tlsDir := start(t, &cluster{})
	for _, tok := range []token.Token{{User: token.Node, Password: agentPassword}, {User: token.Server, Password: serverPassword}} {
		client := dial(t, url, tok)
		config, err := client.Config(t.Context())
		require.NoError(t, err)
		require.Equal(t, "10.42.0.0/16", config.ClusterIPRange)

		base := filepath.Join(t.TempDir(), "kubelet")
		node := supervisor.Node{Name: "n" + tok.User, Password: "secret", IPs: []string{"10.1.0.9"}}
		require.NoError(t, client.Certificate(t.Context(), supervisor.ClientCertificate, base, node))
		pair, err := tls.LoadX509KeyPair(pki.Pair(base))
		require.NoError(t, err)
		require.Equal(t, "system:node:"+node.Name, pair.Leaf.Subject.CommonName)
		clientCA, err := pki.LoadAuthority(filepath.Join(tlsDir, "client-ca"))
		require.NoError(t, err)
		require.NoError(t, pair.Leaf.CheckSignatureFrom(clientCA.Certificate))

		require.NoError(t, client.Certificate(t.Context(), supervisor.ServingCertificate, base, node))
		pair, err = tls.LoadX509KeyPair(pki.Pair(base))
		require.NoError(t, err)
		require.NoError(t, pair.Leaf.VerifyHostname("10.1.0.9"))
	}
}

func TestANameTakenByAnotherNodeIsRefused(t *testing.T) {
	url, _ := start(t, &cluster{})
	client := dial(t, url, token.Token{User: token.Node, Password: agentPassword})
	base := filepath.Join(t.TempDir(), "kubelet")
	require.NoError(t, client.Certificate(t.Context(), supervisor.ClientCertificate, base, supervisor.Node{Name: "n1", Password: "one"}))
	err := client.Certificate(t.Context(), supervisor.ClientCertificate, base, supervisor.Node{Name: "n1", Password: "two"})
	require.ErrorContains(t, err, "403")
	require.NotErrorIs(t, err, supervisor.ErrRejected, "the node waits for its name, it does not give up")
	require.Error(t, client.Certificate(t.Context(), supervisor.ClientCertificate, base, supervisor.Node{Name: "n1"}))
}

func TestATokenOfAnotherClusterIsRefusedBeforeThePasswordIsSent(t *testing.T) {
	url, _ := start(t, &cluster{})
	_, err := supervisor.Dial(t.Context(), url, token.Token{CAHash: token.CAHash([]byte("another")), User: token.Server, Password: serverPassword})
	require.ErrorIs(t, err, supervisor.ErrRejected)
	require.NotContains(t, err.Error(), serverPassword)
}

func TestAMatchingHashIsAccepted(t *testing.T) {
	url, tlsDir := start(t, &cluster{})
	ca, err := os.ReadFile(filepath.Join(tlsDir, "server-ca.crt"))
	require.NoError(t, err)
	client := dial(t, url, token.Token{CAHash: token.CAHash(ca), User: token.Server, Password: serverPassword})
	require.Equal(t, ca, client.CA())
}

func TestAServerWithoutClusterInitCannotBeJoined(t *testing.T) {
	url, _ := start(t, &cluster{noMembers: supervisor.ErrDatastoreDisabled})
	_, err := dial(t, url, token.Token{User: token.Server, Password: serverPassword}).Members(t.Context())
	require.ErrorIs(t, err, supervisor.ErrRejected)
	require.ErrorIs(t, err, supervisor.ErrDatastoreDisabled)
}

func TestAServerThatIsNotReadyPutsNodesOff(t *testing.T) {
	url, _ := start(t, &cluster{starting: true, noMembers: errors.New("etcd not started")})
	client := dial(t, url, token.Token{User: token.Server, Password: serverPassword})
	for name, err := range map[string]error{
		"certificate": client.Certificate(t.Context(), supervisor.ClientCertificate, filepath.Join(t.TempDir(), "x"), supervisor.Node{Name: "n", Password: "p"}),
		"members":     func() error { _, err := client.Members(t.Context()); return err }(),
		"apiservers":  func() error { _, err := client.APIServers(t.Context()); return err }(),
	} {
		require.ErrorContains(t, err, "503", name)
		require.NotErrorIs(t, err, supervisor.ErrRejected, name)
	}
}

func TestPingAnswersAnybodyAndTheRestGoesOn(t *testing.T) {
	url, _ := start(t, &cluster{})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	for path, want := range map[string]struct {
		code int
		body string
	}{
		"/ping":                      {http.StatusOK, "pong"},
		"/readyz":                    {http.StatusServiceUnavailable, "apiserver not ready"},
		"/db/info":                   {http.StatusUnauthorized, "Unauthorized"},
		"/v1-k3s/server-bootstrap":   {http.StatusUnauthorized, "Unauthorized"},
		"/v1-k3s/no-such-thing":      {http.StatusNotFound, ""},
		"/v1-k3s/client-kubelet.crt": {http.StatusUnauthorized, "Unauthorized"},
	} {
		r, err := client.Get(url + path)
		require.NoError(t, err)
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		r.Body.Close()
		require.Equal(t, want.code, r.StatusCode, path)
		require.Contains(t, string(body), want.body, path)
	}
}
