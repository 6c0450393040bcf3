package k3s

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// fakeAPI is an API server over TLS that knows one node.
type fakeAPI struct {
	t      *testing.T
	server *httptest.Server
	// readyz and node answer the two questions.
	readyz, node atomic.Pointer[http.HandlerFunc]
}

func newFakeAPI(t *testing.T) *fakeAPI {
	a := &fakeAPI{t: t}
	a.answer(&a.readyz, serve("ok"))
	a.answer(&a.node, serve(nodeWith("Ready", "True", "kubelet is posting ready status")))
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) { (*a.readyz.Load())(w, r) })
	mux.HandleFunc("/api/v1/nodes/muster-2", func(w http.ResponseWriter, r *http.Request) { (*a.node.Load())(w, r) })
	a.server = httptest.NewTLSServer(mux)
	t.Cleanup(a.server.Close)
	return a
}

func (a *fakeAPI) answer(question *atomic.Pointer[http.HandlerFunc], h http.HandlerFunc) {
	question.Store(&h)
}

func nodeWith(condition, status, message string) string {
	return fmt.Sprintf(`{"kind":"Node","status":{"conditions":[{"type":"MemoryPressure","status":"False"},{"type":%q,"status":%q,"message":%q}]}}`, condition, status, message)
}

// install writes a kubeconfig for the server.
func (a *fakeAPI) install(m *machine, path string) {
	a.t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["default"] = &clientcmdapi.Cluster{
		Server:                   a.server.URL,
		CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.server.Certificate().Raw}),
	}
	c.AuthInfos["default"] = &clientcmdapi.AuthInfo{Token: testServerToken}
	c.Contexts["default"] = &clientcmdapi.Context{Cluster: "default", AuthInfo: "default"}
	c.CurrentContext = "default"
	text, err := clientcmd.Write(*c)
	require.NoError(a.t, err)
	m.write(path, string(text))
}

func fails(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no\nmore lines", code) }
}

func TestWhatIsSeenOfANode(t *testing.T) {
	ready := serve(nodeWith("Ready", "True", ""))
	for name, c := range map[string]struct {
		role         Role
		readyz, node http.HandlerFunc
		want         State
	}{
		"ready server":      {Server, serve("ok"), ready, State{Serving: true, NodeReady: true}},
		"ready agent":       {Agent, fails(500), ready, State{NodeReady: true}},
		"server starting":   {Server, fails(503), ready, State{Waiting: "this node's API server is not ready: GET /readyz: 503 Service Unavailable"}},
		"not ready":         {Agent, nil, serve(nodeWith("Ready", "False", "no CNI\nplugin")), State{Waiting: "Node muster-2 is not Ready: no CNI"}},
		"unknown":           {Agent, nil, serve(nodeWith("Ready", "Unknown", "stopped posting")), State{Waiting: "Node muster-2 is not Ready: stopped posting"}},
		"has not reported":  {Agent, nil, serve(nodeWith("DiskPressure", "False", "")), State{Waiting: "Node muster-2 has not reported yet"}},
		"not registered":    {Server, serve("ok"), fails(404), State{Serving: true, Waiting: "Node muster-2 has not registered yet"}},
		"agent not allowed": {Agent, nil, fails(401), State{Waiting: "no API server answers this node: GET /api/v1/nodes/muster-2: 401 Unauthorized"}},
		"server forbidden":  {Server, serve("ok"), fails(403), State{Serving: true, Waiting: "the Node object cannot be read: GET /api/v1/nodes/muster-2: 403 Forbidden"}},
		"nonsense":          {Agent, nil, serve("[1"), State{Waiting: "no API server answers this node: read Node muster-2: unexpected end of JSON input"}},
	} {
		t.Run(name, func(t *testing.T) {
			m, api := newMachine(t), newFakeAPI(t)
			api.install(m, adminKubeconfig)
			api.install(m, kubeletKubeconfig)
			if c.readyz != nil {
				api.answer(&api.readyz, c.readyz)
			}
			api.answer(&api.node, c.node)
			o := &observer{root: m.root, timeout: observeTimeout}
			defer o.close()
			require.Equal(t, c.want, o.look(t.Context(), c.role, "muster-2"))
		})
	}
}

func TestAHangingServerDoesNotHangTheDriver(t *testing.T) {
	m, api := newMachine(t), newFakeAPI(t)
	api.install(m, adminKubeconfig)
	api.answer(&api.readyz, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	o := &observer{root: m.root, timeout: observeTimeout / 60}
	defer o.close()
	s := o.look(t.Context(), Server, "muster-2")
	require.False(t, s.Serving)
	require.Contains(t, s.Waiting, "this node's API server is not ready")
	require.NotContains(t, s.Waiting, "\n")
}

func TestWithoutAKubeconfigTheNodeWaitsForIt(t *testing.T) {
	m := newMachine(t)
	o := &observer{root: m.root, timeout: observeTimeout}
	defer o.close()
	require.Equal(t, State{Waiting: "K3s has not made its certificates yet"}, o.look(t.Context(), Server, "muster-2"))
	m.write(adminKubeconfig, "{nonsense: "+testServerToken)
	s := o.look(t.Context(), Server, "muster-2")
	require.Contains(t, s.Waiting, "kubeconfig")
	requireNoSecrets(t, s.Waiting)
}

func TestANewKubeconfigIsReadAgain(t *testing.T) {
	m, old, api := newMachine(t), newFakeAPI(t), newFakeAPI(t)
	old.answer(&old.readyz, fails(401))
	old.install(m, adminKubeconfig)
	o := &observer{root: m.root, timeout: observeTimeout}
	defer o.close()
	require.False(t, o.look(t.Context(), Server, "muster-2").Serving)
	info, err := os.Stat(m.path(adminKubeconfig))
	require.NoError(t, err)
	api.install(m, adminKubeconfig)
	later := info.ModTime().Add(1)
	require.NoError(t, os.Chtimes(m.path(adminKubeconfig), later, later))
	m.write(serverCA, "ca")
	s := o.look(t.Context(), Server, "muster-2")
	require.Equal(t, State{Serving: true, NodeReady: true, CAHash: sha("ca")}, s)
}

func TestAnEndlessAnswerIsCut(t *testing.T) {
	m, api := newMachine(t), newFakeAPI(t)
	api.install(m, kubeletKubeconfig)
	api.answer(&api.node, serve(`{"a":"`+strings.Repeat("x", maxAnswer)+`"}`))
	o := &observer{root: m.root, timeout: observeTimeout}
	defer o.close()
	require.Contains(t, o.look(t.Context(), Agent, "muster-2").Waiting, "read Node muster-2")
}
