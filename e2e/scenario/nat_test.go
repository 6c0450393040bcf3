package scenario

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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

	// What `muster nodes` says is one thing; WireGuard's own counters and what is on the links have the last word. Between two
	// nodes n1 carries a packet or it does not, and who is reached directly has WireGuard's packets on its own link.
	const packets, size = 100, 1000
	for i, from := range names[1:] {
		for _, to := range names[i+2:] {
			relayed := expectedPath(nat[from], nat[to]) == "relay"
			sent, carried := s.sentTo(from, standings[to].ID), s.through("n1")
			seen := s.capture(to, size)
			s.run(from, "ping", "-q", "-c", strconv.Itoa(packets), "-i", "0.005", "-s", strconv.Itoa(size), "-M", "do", "-W", "5", standings[to].Address)
			onLink := seen()
			carried = s.through("n1") - carried
			pair := from + " to " + to
			require.Greater(t, s.sentTo(from, standings[to].ID)-sent, packets*size, pair+": by WireGuard's counter")
			if relayed {
				require.Greater(t, carried, 4*packets*size, pair+": in and out of n1, there and back")
				require.Zero(t, onLink, pair+": nothing of WireGuard's is on the link")
				continue
			}
			require.Less(t, carried, packets*size, pair)
			require.GreaterOrEqual(t, onLink, packets, pair+": WireGuard's packets on the link")
		}
	}

	// The largest packet that the device takes passes the relay whole.
	mtu := strings.TrimSpace(s.run("n5", "cat", "/sys/class/net/muster0/mtu"))
	n, err := strconv.Atoi(mtu)
	require.NoError(t, err)
	s.run("n5", "ping", "-c", "3", "-s", strconv.Itoa(n-28), "-M", "do", "-W", "5", standings["n6"].Address)
}

// sentTo is how many bytes WireGuard on a node has sent to a peer.
func (s *testSite) sentTo(from, peer string) int {
	s.t.Helper()
	out := s.run(from, "curl", "-sf", "--unix-socket", "/run/muster/muster.sock", "http://muster/metrics")
	for line := range strings.Lines(out) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), fmt.Sprintf("muster_vpn_sent_bytes_total{peer=%q} ", peer)); found {
			n, err := strconv.ParseFloat(value, 64)
			require.NoError(s.t, err, line)
			return int(n)
		}
	}
	require.Failf(s.t, "no counter", "%s has none for %s", from, peer)
	return 0
}

// capture counts WireGuard's data packets of that many bytes or more on a node's port of the switch, in both ways, until the
// count is asked for.
func (s *testSite) capture(name string, size int) (count func() int) {
	s.t.Helper()
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	var socket int
	s.onPort(name, func(port netlink.Link) (err error) {
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return errors.Join(
			unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: all, Ifindex: port.Attrs().Index}),
			unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		)
	})
	stop, counted := make(chan struct{}), make(chan int)
	go func() {
		packets, frame := 0, make([]byte, 1<<16)
		for {
			flags := 0 // a while of silence only leads to the next look whether to stop
			select {
			case <-stop:
				flags = unix.MSG_DONTWAIT
			default:
			}
			switch n, _, err := unix.Recvfrom(socket, frame, flags); {
			case err == nil && isWireGuardData(frame[:n], size):
				packets++
			case err != nil && flags != 0: // what was queued is read
				_ = unix.Close(socket)
				counted <- packets
				return
			}
		}
	}()
	return func() int {
		close(stop)
		return <-counted
	}
}

// isWireGuardData tells whether an Ethernet frame holds a WireGuard message of type 4 with that many bytes or more.
func isWireGuardData(frame []byte, size int) bool {
	if len(frame) < 14+20 {
		return false
	}
	payload := frame[14:]
	switch etherType := binary.BigEndian.Uint16(frame[12:]); {
	case etherType == unix.ETH_P_IP && payload[9] == unix.IPPROTO_UDP:
		payload = payload[min(len(payload), int(payload[0]&0xf)*4):]
	case etherType == unix.ETH_P_IPV6 && payload[6] == unix.IPPROTO_UDP:
		payload = payload[min(len(payload), 40):]
	default:
		return false
	}
	const udpHeader = 8
	return len(payload) >= udpHeader+size && bytes.Equal(payload[udpHeader:udpHeader+4], []byte{4, 0, 0, 0})
}
