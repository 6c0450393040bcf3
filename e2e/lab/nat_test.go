package lab

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// observer is a server that says to everybody from where it sees them, as STUN does; and it can speak unasked.
type observer struct {
	conn *net.UDPConn
	at   netip.AddrPort
}

func socketIn(t *testing.T, l *Lab, node string, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	_, n, err := l.find(node)
	require.NoError(t, err)
	var conn *net.UDPConn
	require.NoError(t, InNetNS(netNSPath(n.Init), func() error {
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func observe(t *testing.T, l *Lab, node string, port uint16) observer {
	t.Helper()
	addr, err := l.NodeAddr(node)
	require.NoError(t, err)
	o := observer{at: netip.AddrPortFrom(addr, port)}
	o.conn = socketIn(t, l, node, o.at)
	return o
}

// echo sends one datagram from conn and returns where the observer saw it come from, after the answer has arrived.
func (o observer) echo(t *testing.T, conn *net.UDPConn) netip.AddrPort {
	t.Helper()
	_, err := conn.WriteToUDPAddrPort([]byte("where am I?"), o.at)
	require.NoError(t, err)
	var buffer [64]byte
	require.NoError(t, o.conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, seen, err := o.conn.ReadFromUDPAddrPort(buffer[:])
	require.NoError(t, err)
	_, err = o.conn.WriteToUDPAddrPort([]byte("there"), seen)
	require.NoError(t, err)
	require.Equal(t, o.at, receive(t, conn), "the answer")
	return seen
}

func receive(t *testing.T, conn *net.UDPConn) netip.AddrPort {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, from, err := conn.ReadFromUDPAddrPort(make([]byte, 64))
	require.NoError(t, err)
	return from
}

// letIn tells which of the observers get through to an endpoint unasked. The last, who has been spoken to, always does: it is
// how the test knows that nothing is on its way any more.
func letIn(t *testing.T, to netip.AddrPort, conn *net.UDPConn, from ...observer) []netip.AddrPort {
	t.Helper()
	for _, o := range from {
		_, err := o.conn.WriteToUDPAddrPort([]byte("unasked"), to)
		require.NoError(t, err)
	}
	known := from[len(from)-1]
	var all []netip.AddrPort
	for {
		who := receive(t, conn)
		if who == known.at {
			return all
		}
		all = append(all, who)
	}
}

func TestEachRouterIsTheKindOfNATThatItSays(t *testing.T) {
	l := labUp(t, Options{Nodes: 5, NAT: map[string]NAT{"n3": NATFull, "n4": NATRestricted, "n5": NATSymmetric}})
	first, second, otherPort := observe(t, l, "n1", 7001), observe(t, l, "n2", 7001), observe(t, l, "n1", 7002)

	for node, want := range map[string]struct {
		sameForAll bool // one mapping, whoever is spoken to
		anybody    bool // let in unasked
	}{
		"n3": {sameForAll: true, anybody: true},
		"n4": {sameForAll: true},
		"n5": {},
	} {
		t.Run(node, func(t *testing.T) {
			router, err := l.NodeAddr(node)
			require.NoError(t, err)
			conn := socketIn(t, l, node, netip.MustParseAddrPort("192.168.1.2:5000"))
			one := first.echo(t, conn)
			require.Equal(t, router, one.Addr())
			var in []netip.AddrPort
			if want.anybody {
				in = []netip.AddrPort{second.at, otherPort.at}
			}
			require.ElementsMatch(t, in, letIn(t, one, conn, second, otherPort, first))

			two := second.echo(t, conn)
			require.Equal(t, router, two.Addr())
			require.Equal(t, want.sameForAll, one == two, "mappings %s and %s", one, two)
			require.Equal(t, want.sameForAll, one.Port() == 5000)

			// A packet that came too early must not spoil the mapping for the answer to it.
			if want.sameForAll && !want.anybody {
				_, err := otherPort.conn.WriteToUDPAddrPort([]byte("early"), one)
				require.NoError(t, err)
				require.Equal(t, one, otherPort.echo(t, conn))
			}
		})
	}
}

func TestARoutersMappingsEndWithItsRestart(t *testing.T) {
	l := labUp(t, Options{Nodes: 2, NAT: map[string]NAT{"n2": NATRestricted}})
	server := observe(t, l, "n1", 7001)
	conn := socketIn(t, l, "n2", netip.MustParseAddrPort("192.168.1.2:5000"))
	seen := server.echo(t, conn)
	require.NoError(t, l.ForgetMappings(t.Context(), "n2"))
	_, err := server.conn.WriteToUDPAddrPort([]byte("lost"), seen)
	require.NoError(t, err)
	require.Equal(t, seen, server.echo(t, conn), "port kept, and nothing but the answer arrived")

	require.NoError(t, l.SetNAT(t.Context(), "n2", NATSymmetric))
	require.NotEqual(t, seen, server.echo(t, conn))
	require.NoError(t, l.Restart(t.Context(), "n2"))
	again := socketIn(t, l, "n2", netip.MustParseAddrPort("192.168.1.2:5000"))
	server.echo(t, again)
}

func TestNATIsReadFromTheCommandLine(t *testing.T) {
	all, err := ParseNAT([]string{"2:symmetric", "3", "n4:full"})
	require.NoError(t, err)
	require.Equal(t, map[string]NAT{"n2": NATSymmetric, "n3": NATRestricted, "n4": NATFull}, all)
	for _, bad := range []string{"", "0", "x", "2:", "2:cone", "251", "-1"} {
		_, err := ParseNAT([]string{bad})
		require.ErrorIs(t, err, ErrUsage, bad)
	}
	_, err = ParseNAT([]string{"2", "2:full"})
	require.ErrorIs(t, err, ErrUsage)
	_, err = New(Options{Nodes: 1, Dir: t.TempDir(), NAT: map[string]NAT{"n2": NATFull}})
	require.ErrorIs(t, err, ErrUsage)
}
