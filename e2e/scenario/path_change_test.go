package scenario

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/lab"
)

// inNode runs fn in a node's network: sockets that it makes stay there.
func (s *testSite) inNode(name string, fn func() error) {
	s.t.Helper()
	require.NoError(s.t, lab.InNetNS(s.rows()[name].NetNS, fn))
}

// conversation is one TCP connection over the mesh on which somebody speaks all the time and is answered.
type conversation struct {
	lines atomic.Int64
	ended chan error
}

func (s *testSite) converse(from, to string) *conversation {
	s.t.Helper()
	address := s.standings()[to].Address
	var listener net.Listener
	s.inNode(to, func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(address, "7007"))
		return err
	})
	s.t.Cleanup(func() { _ = listener.Close() })
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c)
		_ = c.Close()
	}()
	var conn net.Conn
	s.inNode(from, func() (err error) {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort(address, "7007"), soonTime)
		return err
	})
	s.t.Cleanup(func() { _ = conn.Close() })
	c := &conversation{ended: make(chan error, 1)}
	go func() {
		answers := bufio.NewReader(conn)
		for {
			if _, err := fmt.Fprintln(conn, "still here?"); err != nil {
				c.ended <- err
				return
			}
			if _, err := answers.ReadString('\n'); err != nil {
				c.ended <- err
				return
			}
			c.lines.Add(1)
			time.Sleep(20 * time.Millisecond) // the pace of somebody who types; nothing is waited for
		}
	}()
	return c
}

// goesOn waits for news on the same connection.
func (s *testSite) goesOn(c *conversation) {
	s.t.Helper()
	before := c.lines.Load()
	s.eventually(soonTime, "the connection goes on", func() error {
		select {
		case err := <-c.ended:
			require.NoError(s.t, err, "the connection ended")
		default:
		}
		if now := c.lines.Load(); now < before+20 {
			return fmt.Errorf("%d lines more", now-before)
		}
		return nil
	})
}

// conversing is a site without Kubernetes in which two nodes talk over a direct path.
func conversing(t *testing.T, nodes int, from, to string) (*testSite, *conversation) {
	t.Helper()
	config := newConfig(t)
	config.NoK3s = true
	s := site(t, nodes, config, withoutK3sBinary)
	s.waitReady(formTime)
	s.waitPaths(from, to, "direct")
	talk := s.converse(from, to)
	s.goesOn(talk)
	return s, talk
}

func TestAConnectionOutlivesTheChangeBetweenRelayAndDirectPath(t *testing.T) {
	t.Parallel()
	s := natSite(t, 3, map[string]lab.NAT{"n2": lab.NATSymmetric, "n3": lab.NATSymmetric})
	s.waitPaths("n2", "n3", "relay")
	talk := s.converse("n2", "n3")
	s.goesOn(talk)

	set := func(kind lab.NAT) {
		for _, name := range []string{"n2", "n3"} {
			require.NoError(t, s.SetNAT(context.WithoutCancel(t.Context()), name, kind))
		}
	}
	set(lab.NATRestricted)
	s.waitPaths("n2", "n3", "direct")
	s.goesOn(talk)

	set(lab.NATSymmetric)
	s.waitPaths("n2", "n3", "relay")
	s.goesOn(talk)
}

// A DHCP server that gives a node another address, while its peers know the old one.
func TestAConnectionOutlivesANewAddressOfTheNode(t *testing.T) {
	t.Parallel()
	s, talk := conversing(t, 2, "n1", "n2")

	old, err := s.NodeAddr("n2")
	require.NoError(t, err)
	raw := old.As4()
	raw[3] = 200
	lease := netip.AddrFrom4(raw)
	s.run("n2", "ip", "address", "del", old.String()+"/16", "dev", "eth0")
	s.run("n2", "ip", "address", "add", lease.String()+"/16", "dev", "eth0")
	raw[3] = 254
	s.run("n2", "ip", "route", "replace", "default", "via", netip.AddrFrom4(raw).String())
	s.goesOn(talk)
	s.waitPaths("n1", "n2", "direct")
	s.goesOn(talk)
}

// A second uplink, which only these two have in common, and then the loss of the first between them.
func TestAConnectionMovesToASecondUplink(t *testing.T) {
	t.Parallel()
	s, talk := conversing(t, 3, "n2", "n3")

	rows := s.rows()
	out, err := exec.CommandContext(t.Context(), "ip", "link", "add", "uplink2", "netns", strconv.Itoa(rows["n2"].PID),
		"type", "veth", "peer", "name", "uplink2", "netns", strconv.Itoa(rows["n3"].PID)).CombinedOutput()
	require.NoError(t, err, string(out))
	for i, name := range []string{"n2", "n3"} {
		s.run(name, "ip", "address", "add", fmt.Sprintf("192.168.77.%d/24", i+1), "dev", "uplink2")
		s.run(name, "ip", "link", "set", "uplink2", "up")
	}
	require.NoError(t, s.Partition(t.Context(), []string{"n2"}, []string{"n3"}))
	s.goesOn(talk)
	s.waitPaths("n2", "n3", "direct")
	s.goesOn(talk)
}
