package p2p

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// lanNodeEnv makes the test binary a node that mDNS alone leads to its peers. It
// holds a token and a network_id; the node prints whom it sees, a line each time.
const lanNodeEnv = "MUSTER_TEST_LAN_NODE"

type lanNodeView struct {
	ID    string
	Peers []string
}

func runLANNode() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	line, networkID, _ := strings.Cut(os.Getenv(lanNodeEnv), " ")
	token, err := ParseToken(line)
	fail(err)
	dir, err := os.MkdirTemp("", "muster-lan-node")
	fail(err)
	defer os.RemoveAll(dir)
	id, _, err := OpenIdentity(dir, Hardware{ID: "env:test"})
	fail(err)
	h, err := NewHost(HostConfig{Identity: id, Network: token.Network(networkID), Port: 7946})
	fail(err)
	d, err := StartDiscovery(DiscoveryConfig{Host: h, Network: token.Network(networkID), MDNS: true})
	fail(err)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	for {
		changed := h.Changed()
		view := lanNodeView{ID: h.ID().String(), Peers: []string{}}
		for _, p := range h.Peers() {
			view.Peers = append(view.Peers, p.ID.String())
		}
		fail(json.NewEncoder(os.Stdout).Encode(view))
		select {
		case <-changed:
		case <-stop:
			fail(d.Close())
			fail(h.Close())
			return
		}
	}
}

// testLAN is a bridge in a network namespace of its own, and one namespace per
// node on it.
type testLAN struct {
	t      *testing.T
	prefix string
	count  int
}

func newTestLAN(t *testing.T) *testLAN {
	l := &testLAN{t: t, prefix: fmt.Sprintf("mp2p%d", os.Getpid())}
	l.namespace("sw")
	l.ip("-n", l.prefix+"sw", "link", "add", "br0", "type", "bridge")
	l.ip("-n", l.prefix+"sw", "link", "set", "br0", "up")
	return l
}

func (l *testLAN) ip(args ...string) {
	out, err := exec.Command("ip", args...).CombinedOutput()
	require.NoError(l.t, err, "ip %s: %s", strings.Join(args, " "), out)
}

func (l *testLAN) namespace(name string) {
	l.ip("netns", "add", l.prefix+name)
	l.t.Cleanup(func() { l.ip("netns", "del", l.prefix+name) })
}

// plug makes a namespace on the LAN, with that address.
func (l *testLAN) plug(address string) (namespace string) {
	l.count++
	ns, sw := fmt.Sprintf("%sn%d", l.prefix, l.count), l.prefix+"sw"
	l.namespace(fmt.Sprintf("n%d", l.count))
	port := fmt.Sprintf("p%d", l.count)
	l.ip("-n", sw, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns)
	l.ip("-n", sw, "link", "set", port, "master", "br0", "up")
	l.ip("-n", ns, "link", "set", "lo", "up")
	l.ip("-n", ns, "addr", "add", address, "dev", "eth0", "nodad")
	l.ip("-n", ns, "link", "set", "eth0", "up")
	return ns
}

// lanNode is a node process.
type lanNode struct {
	views chan lanNodeView
	last  lanNodeView
}

func (l *testLAN) start(namespace string, token Token, networkID string) *lanNode {
	cmd := exec.Command("ip", "netns", "exec", namespace, os.Args[0])
	cmd.Env = append(os.Environ(), lanNodeEnv+"="+token.Encode()+" "+networkID)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(l.t, err)
	require.NoError(l.t, cmd.Start())
	n := &lanNode{views: make(chan lanNodeView, 1000)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var v lanNodeView
			if json.Unmarshal(lines.Bytes(), &v) == nil {
				n.views <- v
			}
		}
	}()
	l.t.Cleanup(func() {
		require.NoError(l.t, cmd.Process.Signal(syscall.SIGTERM))
		<-read
		require.NoError(l.t, cmd.Wait())
	})
	return n
}

// until reads views until one satisfies ok.
func (n *lanNode) until(t *testing.T, what string, ok func(lanNodeView) bool) {
	deadline := time.After(waitFor)
	for n.last.ID == "" || !ok(n.last) {
		select {
		case n.last = <-n.views:
		case <-deadline:
			require.Fail(t, "never came", "%s; last seen %v", what, n.last)
		}
	}
}

func TestNodesOnALANFindEachOtherByMDNSAlone(t *testing.T) {
	for family, format := range map[string]string{"IPv4": "10.77.0.%d/24", "IPv6": "fd77::%d/64"} {
		t.Run(family, func(t *testing.T) {
			lan := newTestLAN(t)
			token, other := testToken(t), testToken(t)
			var ours []*lanNode
			for i := range 3 {
				ours = append(ours, lan.start(lan.plug(fmt.Sprintf(format, i+1)), token, "a"))
			}
			strangers := []*lanNode{
				lan.start(lan.plug(fmt.Sprintf(format, 4)), other, "a"),
				lan.start(lan.plug(fmt.Sprintf(format, 5)), token, "b"),
			}
			var ids []string
			for _, n := range ours {
				n.until(t, "an ID", func(lanNodeView) bool { return true })
				ids = append(ids, n.last.ID)
			}
			for i, n := range ours {
				want := slices.Sorted(slices.Values(slices.Delete(slices.Clone(ids), i, i+1)))
				n.until(t, "the two others", func(v lanNodeView) bool {
					return slices.Equal(want, slices.Sorted(slices.Values(v.Peers)))
				})
			}
			for _, n := range strangers {
				n.until(t, "itself, alone", func(v lanNodeView) bool { return len(v.Peers) == 0 })
			}
		})
	}
}
