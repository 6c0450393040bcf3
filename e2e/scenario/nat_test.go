package scenario

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/lab"
)

// expectedPath is what two routers allow. A symmetric one gives the other no port
// to aim at, which only somebody who takes packets from everywhere can do without.
func expectedPath(a, b lab.NAT) string {
	open := func(n lab.NAT) bool { return n == lab.NATNone || n == lab.NATFull }
	if open(a) || open(b) || a == lab.NATRestricted && b == lab.NATRestricted {
		return "direct"
	}
	return "relay"
}

// natSite is a site whose nodes know of n1, which everybody reaches.
func natSite(t *testing.T, nodes int, nat map[string]lab.NAT) *testSite {
	t.Helper()
	config := newConfig(t)
	config.NoK3s, config.MinimumNodes, config.Bootstrap = true, nodes, []string{"/dns4/n1.lab/udp/4847/quic-v1"}
	s := site(t, nodes, config, withoutK3sBinary, func(o *lab.Options) { o.NAT = nat })
	s.waitReady(formTime)
	return s
}

func TestEveryPairOfRoutersGetsThePathThatTheyAllow(t *testing.T) {
	t.Parallel()
	nat := map[string]lab.NAT{
		"n2": lab.NATFull, "n3": lab.NATRestricted, "n4": lab.NATRestricted, "n5": lab.NATSymmetric, "n6": lab.NATSymmetric,
	}
	s := natSite(t, 6, nat)
	names := []string{"n1", "n2", "n3", "n4", "n5", "n6"}
	s.eventually(natTime, "every path is what the routers allow", func() error {
		var wrong []string
		for _, from := range names {
			got := s.paths(from)
			for _, to := range names {
				if want := expectedPath(nat[from], nat[to]); from != to && got[to] != want {
					wrong = append(wrong, fmt.Sprintf("%s to %s: %q, not %s", from, to, got[to], want))
				}
			}
		}
		if len(wrong) > 0 {
			return fmt.Errorf("%s", strings.Join(wrong, "; "))
		}
		return nil
	})
	standings := s.standings()
	for _, from := range names {
		for _, to := range names {
			if from < to {
				s.run(from, "ping", "-c", "1", "-w", "10", standings[to].Address)
			}
		}
	}

	// The link has the last word: what is relayed comes by n1, and nothing else does.
	const packets, size = 200, 1000
	send := func(from, to string) int {
		before := s.through("n1")
		s.run(from, "ping", "-q", "-c", strconv.Itoa(packets), "-i", "0.005", "-s", strconv.Itoa(size), "-M", "do", "-W", "5", standings[to].Address)
		return s.through("n1") - before
	}
	require.Greater(t, send("n5", "n6"), 4*packets*size, "in and out, there and back")
	require.Less(t, send("n3", "n4"), packets*size)
	require.Less(t, send("n2", "n5"), packets*size)

	// The largest packet that the device takes passes the relay whole.
	mtu := strings.TrimSpace(s.run("n5", "cat", "/sys/class/net/muster0/mtu"))
	n, err := strconv.Atoi(mtu)
	require.NoError(t, err)
	s.run("n5", "ping", "-c", "3", "-s", strconv.Itoa(n-28), "-M", "do", "-W", "5", standings["n6"].Address)
}
