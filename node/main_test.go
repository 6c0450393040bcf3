package node

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/p2p"
)

var update = flag.Bool("update", false, "write golden files and docs/LOGGING.md anew")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m,
		// Started for good by the first use of libp2p in a process.
		goleak.IgnoreTopFunction("github.com/ipfs/go-log/v2/writer.(*MirrorWriter).logRoutine"),
		goleak.IgnoreAnyFunction("github.com/libp2p/go-flow-metrics.(*sweeper).run"),
		// A probe in hand outlives memberlist's shutdown by some seconds; a list that
		// was never shut down shows by its other goroutines.
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"),
	)
}

// waitFor bounds what happens by itself; it is reached only when it never does.
const waitFor = time.Minute

// golden compares with a file, or writes it under -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "renew with -update")
}

// testConfig is a configuration whose token is given and that leaves the machine
// alone.
func testConfig(t *testing.T, text string) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(file, []byte("#cloud-config\n"+text), 0o600))
	c, warnings, err := config.Load(t.Context(), config.Sources{Files: []string{file}})
	require.NoError(t, err)
	require.Empty(t, warnings)
	return c
}

func testToken(t *testing.T) string {
	t.Helper()
	token, err := p2p.GenerateToken(p2p.TokenOptions{})
	require.NoError(t, err)
	return token.Encode()
}

// shortDir is a temporary directory whose path leaves room for the name of a
// socket (108 bytes in all).
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "muster")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// testAgent is an agent on loopback that can be stopped and started again.
type testAgent struct {
	*Agent
	t    *testing.T
	opts Options

	mu     sync.Mutex
	cancel context.CancelFunc
	ended  chan error
}

// newTestAgent makes an agent that has not begun to run.
func newTestAgent(t *testing.T, hostname, text string) *testAgent {
	t.Helper()
	dir := shortDir(t)
	a := &testAgent{t: t, opts: Options{
		Config: testConfig(t, text), StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		Hostname: hostname, Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Port: ownPort(t), NoMDNS: true,
		Log: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelInfo})).With("host", hostname),
	}}
	a.opts.Config.P2P.DisableDHT = len(a.opts.Config.P2P.DHTBootstrap) == 0 // tests leave the Internet alone
	t.Cleanup(a.stop)
	return a
}

var portsGiven atomic.Int64

// ownPort is one that an agent finds free when it comes back: Linux gives nobody a port above 60999 who does not ask for it.
func ownPort(t *testing.T) int {
	t.Helper()
	const first, count = 61000, 4000
	for range count {
		port := first + (os.Getpid()+int(portsGiven.Add(1)))%count
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		tcp, err := net.Listen("tcp4", addr)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp4", addr)
		_ = tcp.Close()
		if err != nil {
			continue
		}
		_ = udp.Close()
		return port
	}
	require.FailNow(t, "no free port")
	return 0
}

func (a *testAgent) start() {
	a.t.Helper()
	agent, err := New(a.opts)
	require.NoError(a.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	a.mu.Lock()
	a.Agent, a.cancel, a.ended = agent, cancel, make(chan error, 1)
	a.mu.Unlock()
	go func() { a.ended <- agent.Run(ctx) }()
}

// stop ends the agent as SIGTERM does.
func (a *testAgent) stop() {
	a.t.Helper()
	a.mu.Lock()
	cancel := a.cancel
	a.cancel = nil
	a.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	require.NoError(a.t, <-a.ended)
}

func (a *testAgent) client() *Client { return NewClient(a.opts.RunDir) }

// until waits on the agent's own changes, so that a lost one fails a test.
func (a *testAgent) until(what string, ok func() bool) {
	a.t.Helper()
	deadline := time.After(waitFor)
	for {
		changed := a.changed.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-time.After(time.Second): // what waits says nothing when time alone passes
		case <-deadline:
			require.Failf(a.t, "never came", "%s; %s is in phase %s and says %q", what, a.opts.Hostname, a.phase().Phase, a.why())
		}
	}
}

// bootstrap is where the others find this agent.
func (a *testAgent) bootstrap() string {
	a.t.Helper()
	a.until("a control plane", a.running)
	for _, addr := range a.host.Addrs() {
		if strings.Contains(addr.String(), "/tcp/") {
			return addr.String()
		}
	}
	require.Fail(a.t, "no address")
	return ""
}
