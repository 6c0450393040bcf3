package k3s

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeEtcd answers the two services as etcd does.
type fakeEtcd struct {
	server *httptest.Server

	mu      sync.Mutex
	members []EtcdMember
	leader  uint64
	refuses string // MemberRemove's gRPC error, empty for none
	asked   []string
}

func newFakeEtcd(t *testing.T, members ...EtcdMember) (*fakeEtcd, *etcdClient) {
	e := &fakeEtcd{members: members, leader: 7}
	e.server = httptest.NewUnstartedServer(e)
	e.server.EnableHTTP2 = true
	e.server.StartTLS()
	t.Cleanup(e.server.Close)
	return e, &etcdClient{http: e.server.Client(), local: e.server.URL}
}

func (e *fakeEtcd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	frame := make([]byte, 64)
	n, _ := r.Body.Read(frame)
	method := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	e.asked = append(e.asked, method)
	var message []byte
	switch method {
	case "MemberList":
		for _, m := range e.members {
			message = appendBytesField(message, 2, encodeMember(m))
		}
	case "Status":
		message = binary.AppendUvarint([]byte{4 << 3}, e.leader)
	case "MemberRemove":
		id, _ := binary.Uvarint(frame[6:n])
		if e.refuses != "" {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "9")
			w.Header().Set("Grpc-Message", e.refuses)
			return
		}
		for i, m := range e.members {
			if m.ID == id {
				e.members = append(e.members[:i:i], e.members[i+1:]...)
				break
			}
		}
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
	w.Header().Set("Grpc-Status", "0")
}

func appendBytesField(b []byte, number uint64, value []byte) []byte {
	b = binary.AppendUvarint(b, number<<3|2)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

func encodeMember(m EtcdMember) []byte {
	b := binary.AppendUvarint([]byte{1 << 3}, m.ID)
	b = appendBytesField(b, 2, []byte(m.Name))
	b = appendBytesField(b, 3, []byte("https://"+m.Host+":2380"))
	for _, c := range m.clients {
		b = appendBytesField(b, 4, []byte(c))
	}
	if m.Learner {
		b = append(b, 5<<3, 1)
	}
	return b
}

func TestEtcdMembersAreListedAndAsked(t *testing.T) {
	fake, client := newFakeEtcd(t)
	fake.members = []EtcdMember{
		{ID: 0x8e9e05c52164694d, Name: "n1-abc", Host: "10.1.0.1", clients: []string{fake.server.URL}},
		{ID: 2, Name: "n2-def", Host: "10.1.0.2", clients: []string{"https://127.0.0.1:1"}},
		{ID: 3, Host: "fd00::3", Learner: true, clients: []string{"http://plain.example"}},
	}
	fake.members[2].Host = "[fd00::3]"
	members, err := client.list(t.Context())
	require.NoError(t, err)
	require.Len(t, members, 3)
	require.Equal(t, "8e9e05c52164694d", members[0].Hex())
	require.Equal(t, "fd00::3", members[2].Host)
	require.True(t, members[2].Learner)
	require.True(t, client.reaches(t.Context(), members[0]))
	require.False(t, client.reaches(t.Context(), members[1]), "nobody listens there")
	require.False(t, client.reaches(t.Context(), members[2]), "etcd is asked over TLS only")

	fake.mu.Lock()
	fake.leader = 0
	fake.mu.Unlock()
	require.False(t, client.reaches(t.Context(), members[0]), "a member without a leader is not served")
}

func TestS14AMemberIsRemovedByItsIDAndNobodyElse(t *testing.T) {
	fake, client := newFakeEtcd(t, EtcdMember{ID: 1, Name: "n1-a", Host: "10.1.0.1"}, EtcdMember{ID: 2, Name: "n2-b", Host: "10.1.0.2"})
	require.NoError(t, client.remove(t.Context(), 2))
	require.NoError(t, client.remove(t.Context(), 2), "one that is gone is no error")
	// The node comes back under its name and address, as another member.
	fake.mu.Lock()
	fake.members = append(fake.members, EtcdMember{ID: 3, Name: "n2-c", Host: "10.1.0.2"})
	fake.mu.Unlock()
	require.NoError(t, client.remove(t.Context(), 2))
	members, err := client.list(t.Context())
	require.NoError(t, err)
	require.Len(t, members, 2)

	fake.mu.Lock()
	fake.refuses = "etcdserver: re-configuration failed due to not enough started members"
	fake.mu.Unlock()
	require.ErrorContains(t, client.remove(t.Context(), 3), "not enough started members")
}

// fakeObjects is an API server that holds objects: UIDs by path.
type fakeObjects struct {
	mu      sync.Mutex
	objects map[string]string
	deleted []string
}

func (f *fakeObjects) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	uid, there := f.objects[r.URL.Path]
	switch {
	case !there:
		http.NotFound(w, r)
	case r.Method == http.MethodGet:
		fmt.Fprintf(w, `{"metadata":{"uid":%q}}`, uid)
	default:
		var options struct{ Preconditions struct{ UID string } }
		if json.NewDecoder(r.Body).Decode(&options) != nil || r.Header.Get("Content-Type") != "application/json" || options.Preconditions.UID != uid {
			http.Error(w, "another UID", http.StatusConflict)
			return
		}
		delete(f.objects, r.URL.Path)
		f.deleted = append(f.deleted, r.URL.Path)
	}
}

func TestForgettingANodeTakesItsPasswordAndMindsNotWhatIsGone(t *testing.T) {
	const node, secret = "/api/v1/nodes/kiosk-7", "/api/v1/namespaces/kube-system/secrets/kiosk-7.node-password.k3s"
	m := newMachine(t)
	api := newFakeAPI(t)
	held := &fakeObjects{objects: map[string]string{node: "u1", secret: "u2"}}
	api.server.Config.Handler = held
	api.install(m, adminKubeconfig)
	asked := 0
	still := func(context.Context) error { asked++; return nil }
	require.NoError(t, forgetNode(t.Context(), m.root, "kiosk-7", still))
	require.Equal(t, []string{node, secret}, held.deleted)
	require.Equal(t, 1, asked)
	require.NoError(t, forgetNode(t.Context(), m.root, "kiosk-7", still))
	require.Equal(t, 1, asked, "nothing is there to ask about")

	held.objects[node] = "u3"
	require.NoError(t, forgetNode(t.Context(), m.root, "kiosk-7", still))
	require.Len(t, held.deleted, 3, "one that has no password")

	api.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	require.ErrorContains(t, forgetNode(t.Context(), m.root, "kiosk-7", still), "forget Node kiosk-7: GET /api/v1/nodes/kiosk-7: 403")
}

// Who looked and was frozen does not delete the Node of a node that came back under
// the name.
func TestS14ALateExecutorForgetsNobodyElse(t *testing.T) {
	const node = "/api/v1/nodes/kiosk-7"
	m := newMachine(t)
	api := newFakeAPI(t)
	held := &fakeObjects{objects: map[string]string{node: "old"}}
	api.server.Config.Handler = held
	api.install(m, adminKubeconfig)
	later := func(context.Context) error {
		held.mu.Lock()
		defer held.mu.Unlock()
		held.objects[node] = "new"
		return nil
	}
	require.NoError(t, forgetNode(t.Context(), m.root, "kiosk-7", later))
	require.Equal(t, map[string]string{node: "new"}, held.objects)
	no := func(context.Context) error { return errors.New("decided anew") }
	require.ErrorContains(t, forgetNode(t.Context(), m.root, "kiosk-7", no), "decided anew")
	require.Equal(t, map[string]string{node: "new"}, held.objects)
}

func TestWithoutEtcdThereIsNoneToAsk(t *testing.T) {
	c := Cluster{root: t.TempDir()}
	_, err := c.Members(t.Context())
	require.ErrorIs(t, err, ErrNoEtcd)
	require.ErrorIs(t, c.Remove(t.Context(), 1), ErrNoEtcd)
	c.Close()
}

func FuzzDecodeMembers(f *testing.F) {
	f.Add(appendBytesField(nil, 2, encodeMember(EtcdMember{ID: 5, Name: "n", Host: "10.1.0.1", Learner: true, clients: []string{"https://10.1.0.1:2379"}})))
	f.Add([]byte{0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add([]byte{0x0a, 0x00, 0x21})
	f.Fuzz(func(t *testing.T, message []byte) {
		members, err := decodeMembers(message)
		require.LessOrEqual(t, len(members), maxEtcdMembers)
		if err != nil {
			require.Empty(t, members)
		}
		hasLeader(message)
	})
}
