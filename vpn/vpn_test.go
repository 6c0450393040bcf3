package vpn

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

func newKey(t *testing.T) wgtypes.Key {
	t.Helper()
	key, err := wgtypes.GeneratePrivateKey()
	require.NoError(t, err)
	return key
}

// openIn opens a user-space device in a namespace. Names differ because the
// control sockets of both lie in one folder.
func openIn(t *testing.T, n namespace, name string) *VPN {
	t.Helper()
	var v *VPN
	n.do(t, func() (err error) {
		v, err = Open(Options{Interface: name, Mode: ModeUser})
		return err
	})
	t.Cleanup(func() { n.do(t, v.Close) })
	return v
}

// The control sockets of devices have no namespace: tests that run at the same time
// on one machine keep apart by their names.
var (
	deviceA = fmt.Sprintf("mta%d", os.Getpid())
	deviceB = fmt.Sprintf("mtb%d", os.Getpid())
)

// site is two nodes: each has its device in a namespace of its own, and they
// reach each other over loopback, where this process's UDP sockets are.
type site struct {
	a, b       namespace
	va, vb     *VPN
	keyA, keyB wgtypes.Key
	portA      int
	endpointB  netip.AddrPort
}

func newSite(t *testing.T) site {
	s := site{a: newNamespace(t), b: newNamespace(t), keyA: newKey(t), keyB: newKey(t), portA: freePort(t)}
	s.endpointB = loopback(freePort(t))
	s.va, s.vb = openIn(t, s.a, deviceA), openIn(t, s.b, deviceB)
	return s
}

func freePort(t *testing.T) int {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}

func loopback(port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))
}

func (s site) configA(candidates ...netip.AddrPort) Config {
	return Config{PrivateKey: s.keyA, Port: s.portA, Address: netip.MustParsePrefix("10.1.0.1/16"), Peers: []Peer{
		{ID: "b", PublicKey: s.keyB.PublicKey(), Address: netip.MustParseAddr("10.1.0.2"), Candidates: candidates},
	}}
}

func (s site) configB() Config {
	return Config{PrivateKey: s.keyB, Port: int(s.endpointB.Port()), Address: netip.MustParsePrefix("10.1.0.2/16"), Peers: []Peer{
		{ID: "a", PublicKey: s.keyA.PublicKey(), Address: netip.MustParseAddr("10.1.0.1"), Candidates: []netip.AddrPort{loopback(s.portA)}},
	}}
}

// meet probes until both ends have shaken hands.
func (s site) meet(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		var waiting int
		s.a.do(t, func() (err error) { waiting, err = s.va.Probe(context.Background()); return err })
		return waiting == 0
	}, 30*time.Second, 500*time.Millisecond)
}

func (s site) echo(t *testing.T) {
	t.Helper()
	var server net.Listener
	s.b.do(t, func() (err error) {
		server, err = net.Listen("tcp", "10.1.0.2:7777")
		return err
	})
	defer server.Close()
	go func() {
		if c, err := server.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	s.a.do(t, func() error {
		c, err := net.DialTimeout("tcp", "10.1.0.2:7777", 10*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
		if string(got) != "ping" {
			return fmt.Errorf("echo came back as %q", got)
		}
		return nil
	})
}

func TestPacketsReachAPeerOverItsCandidate(t *testing.T) {
	s := newSite(t)
	s.a.do(t, func() error { return s.va.Apply(s.configA(s.endpointB)) })
	s.b.do(t, func() error { return s.vb.Apply(s.configB()) })
	s.meet(t)
	s.echo(t)
	peers, err := s.va.Peers()
	require.NoError(t, err)
	require.Len(t, peers, 1)
	require.Equal(t, "b", peers[0].ID)
	require.Equal(t, s.endpointB, peers[0].Endpoint)
	require.False(t, peers[0].LastHandshake.IsZero())
}

func TestADeadCandidateIsPassedOver(t *testing.T) {
	s := newSite(t)
	s.a.do(t, func() error { return s.va.Apply(s.configA(loopback(9), s.endpointB)) })
	quiet := s.configB()
	quiet.Peers[0].Candidates = nil // so that only A can find the way
	s.b.do(t, func() error { return s.vb.Apply(quiet) })
	s.meet(t)
	s.echo(t)
}

func TestApplyingTheSameAgainChangesNothing(t *testing.T) {
	s := newSite(t)
	apply := func() {
		s.a.do(t, func() error { return s.va.Apply(s.configA(s.endpointB)) })
		s.b.do(t, func() error { return s.vb.Apply(s.configB()) })
	}
	apply()
	s.meet(t)
	before, err := s.va.Peers()
	require.NoError(t, err)
	apply()
	after, err := s.va.Peers()
	require.NoError(t, err)
	require.Equal(t, before[0].LastHandshake, after[0].LastHandshake, "the session survives")
	require.Equal(t, before[0].Endpoint, after[0].Endpoint)
}

func TestAPeerThatLeavesIsRemovedAndAnotherAdded(t *testing.T) {
	s := newSite(t)
	s.a.do(t, func() error { return s.va.Apply(s.configA(s.endpointB)) })
	next := s.configA()
	next.Peers = []Peer{{ID: "c", PublicKey: newKey(t).PublicKey(), Address: netip.MustParseAddr("10.1.0.3")}}
	s.a.do(t, func() error { return s.va.Apply(next) })
	device, err := s.va.control.Device(deviceA)
	require.NoError(t, err)
	require.Len(t, device.Peers, 1)
	require.Equal(t, "10.1.0.3/32", device.Peers[0].AllowedIPs[0].String())
}

func TestAPeerCannotSpeakForAnother(t *testing.T) {
	s := newSite(t)
	s.a.do(t, func() error { return s.va.Apply(s.configA(s.endpointB)) })
	liar := s.configB()
	liar.Address = netip.MustParsePrefix("10.1.0.9/16")
	s.b.do(t, func() error { return s.vb.Apply(liar) })
	var server net.PacketConn
	s.a.do(t, func() (err error) {
		server, err = net.ListenPacket("udp", "10.1.0.1:7778")
		return err
	})
	defer server.Close()
	heard := make(chan string, 1)
	go func() {
		b := make([]byte, 64)
		if _, from, err := server.ReadFrom(b); err == nil {
			heard <- from.String()
		}
	}()
	s.b.do(t, func() error {
		// The peer's own address is put on the device a moment later: the one
		// datagram that then comes proves that the lies before it were dropped.
		for range 5 {
			c, err := net.Dial("udp", "10.1.0.1:7778")
			if err != nil {
				return err
			}
			_, _ = c.Write([]byte("lie"))
			_ = c.Close()
		}
		l, err := netlink.LinkByName(deviceB)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 1, 0, 2), Mask: net.CIDRMask(32, 32)}})
	})
	require.Eventually(t, func() bool {
		s.b.do(t, func() error {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(10, 1, 0, 2)}}
			c, err := d.Dial("udp", "10.1.0.1:7778")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("truth"))
			return err
		})
		return len(heard) > 0
	}, 20*time.Second, 200*time.Millisecond)
	require.Contains(t, <-heard, "10.1.0.2:")
}

func TestFalseCandidatesCostNobodyTheMesh(t *testing.T) {
	s := newSite(t)
	lies := []netip.AddrPort{
		{},
		netip.MustParseAddrPort("0.0.0.0:51820"),
		netip.MustParseAddrPort("192.0.2.1:0"),
		netip.MustParseAddrPort("224.0.0.1:51820"),
		// A zone is free text; this one tries to take another node's address.
		netip.AddrPortFrom(netip.MustParseAddr("fe80::1%x\nallowed_ip=10.1.0.3/32\n"), 51820),
	}
	s.a.do(t, func() error { return s.va.Apply(s.configA(lies...)) })
	device, err := s.va.control.Device(deviceA)
	require.NoError(t, err)
	require.Len(t, device.Peers, 1)
	require.Nil(t, device.Peers[0].Endpoint)
	require.Len(t, device.Peers[0].AllowedIPs, 1)
	require.Equal(t, "10.1.0.2/32", device.Peers[0].AllowedIPs[0].String())
	s.a.do(t, func() error { _, err := s.va.Probe(context.Background()); return err })

	s.a.do(t, func() error { return s.va.Apply(s.configA(append(lies, s.endpointB)...)) })
	s.b.do(t, func() error { return s.vb.Apply(s.configB()) })
	s.meet(t)
	s.echo(t)
}

func TestBadConfigurationIsRefusedAndChangesNothing(t *testing.T) {
	good := Config{PrivateKey: newKey(t), Address: netip.MustParsePrefix("10.1.0.1/16")}
	peer := Peer{ID: "b", PublicKey: newKey(t).PublicKey(), Address: netip.MustParseAddr("10.1.0.2")}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no key":          {func(c *Config) { c.PrivateKey = wgtypes.Key{} }, "no private key"},
		"no address":      {func(c *Config) { c.Address = netip.Prefix{} }, "no mesh address"},
		"port":            {func(c *Config) { c.Port = 70000 }, "port 70000"},
		"outside":         {func(c *Config) { p := peer; p.Address = netip.MustParseAddr("10.2.0.1"); c.Peers = []Peer{p} }, "outside of 10.1.0.0/16"},
		"own address":     {func(c *Config) { p := peer; p.Address = c.Address.Addr(); c.Peers = []Peer{p} }, "belongs to this node"},
		"same address":    {func(c *Config) { p := peer; p.PublicKey = newKey(t).PublicKey(); c.Peers = []Peer{peer, p} }, "belongs to b"},
		"same public key": {func(c *Config) { p := peer; p.Address = netip.MustParseAddr("10.1.0.3"); c.Peers = []Peer{peer, p} }, "belongs to b"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := good
			c.change(&bad)
			v := &VPN{} // nothing to change: a bad configuration is refused before
			require.ErrorContains(t, v.Apply(bad), c.want)
		})
	}
}

func TestTheKeySurvivesARestartAndIsNeverReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "wireguard.key")
	first, err := LoadKey(path)
	require.NoError(t, err)
	second, err := LoadKey(path)
	require.NoError(t, err)
	require.Equal(t, first, second)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	require.NoError(t, os.WriteFile(path, []byte("torn"), 0o600))
	_, err = LoadKey(path)
	require.ErrorContains(t, err, "not a base64 key")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "torn", string(text))
}

func TestMTULeavesRoomForTheTunnel(t *testing.T) {
	require.Equal(t, 1420, MTUFor(1500))
	require.Equal(t, 8920, MTUFor(9000))
	require.Equal(t, 1280, MTUFor(1300))
}

// Both ends find the path at the same moment; two handshakes would cross.
func TestOneEndLeadsTheHandshake(t *testing.T) {
	s := newSite(t)
	s.a.do(t, func() error { return s.va.Apply(s.configA(s.endpointB)) })
	s.b.do(t, func() error { return s.vb.Apply(s.configB()) })
	atA, atB := s.configB().Peers[0], s.configA(s.endpointB).Peers[0] // each, as the other has it
	grace := map[bool]time.Duration{}
	s.a.do(t, func() error {
		d, err := s.va.direct(context.Background(), atB, s.endpointB)
		grace[s.va.leads(atB.PublicKey)] = d
		return err
	})
	s.b.do(t, func() error {
		d, err := s.vb.direct(context.Background(), atA, loopback(s.portA))
		if d != 0 { // the leader's handshake may be through
			grace[s.vb.leads(atA.PublicKey)] = d
		}
		return err
	})
	require.NotEqual(t, s.va.leads(atB.PublicKey), s.vb.leads(atA.PublicKey))
	for leads, d := range grace {
		require.Equal(t, leads, d == leaderGrace)
	}
	require.Eventually(t, func() bool {
		peers, err := s.va.Peers()
		return err == nil && !peers[0].LastHandshake.IsZero()
	}, 30*time.Second, 50*time.Millisecond)
	s.echo(t)
	before, err := s.va.Peers()
	require.NoError(t, err)
	s.a.do(t, func() error { return s.va.insist(context.Background(), atB, s.endpointB) })
	after, err := s.va.Peers()
	require.NoError(t, err)
	require.Equal(t, before[0].LastHandshake, after[0].LastHandshake, "what works is left alone")
}
