package vpn

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

func serve(t *testing.T) *DNS {
	t.Helper()
	var d *DNS
	var err error
	for range 16 { // the number that is free for UDP may be taken for TCP
		if d, err = ServeDNS([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, nil); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func ask(t *testing.T, d *DNS, transport, name string, kind uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	r, _, err := (&dns.Client{Net: transport}).Exchange(q, d.Addresses()[0].String())
	require.NoError(t, err)
	return r
}

func addressesIn(r *dns.Msg) []string {
	var all []string
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			all = append(all, rr.A.String())
		case *dns.AAAA:
			all = append(all, rr.AAAA.String())
		}
	}
	return all
}

func TestNodesResolveByTheirNames(t *testing.T) {
	d := serve(t)
	d.SetZone(HostZone("Kairos", map[string]netip.Addr{"Box-1": netip.MustParseAddr("10.1.0.1")}))
	for _, name := range []string{"box-1", "BOX-1", "box-1.kairos.muster"} {
		for _, transport := range []string{"udp", "tcp"} {
			require.Equal(t, []string{"10.1.0.1"}, addressesIn(ask(t, d, transport, name, dns.TypeA)), name)
		}
	}
}

func TestANameOfTheMeshNeverLeavesIt(t *testing.T) {
	leaked := serve(t)
	leaked.SetZone(Zone{"box.kairos.muster": {netip.MustParseAddr("192.0.2.1")}, "example.org": {netip.MustParseAddr("192.0.2.2")}})
	d := serve(t)
	d.SetUpstreams(leaked.Addresses())
	d.SetZone(Zone{"foo.bar": {netip.MustParseAddr("2.2.2.2")}})

	require.Equal(t, dns.RcodeNameError, ask(t, d, "udp", "box.kairos.muster", dns.TypeA).Rcode)
	r := ask(t, d, "udp", "foo.bar", dns.TypeAAAA)
	require.Equal(t, dns.RcodeSuccess, r.Rcode)
	require.Empty(t, r.Answer, "the name is ours and has no IPv6 address")
	require.Equal(t, []string{"192.0.2.2"}, addressesIn(ask(t, d, "udp", "example.org", dns.TypeA)), "the rest is forwarded")
}

func TestAWildcardCoversOneLabel(t *testing.T) {
	d := serve(t)
	d.SetZone(Zone{"*.apps.example": {netip.MustParseAddr("10.1.0.7")}})
	require.Equal(t, []string{"10.1.0.7"}, addressesIn(ask(t, d, "udp", "shop.apps.example", dns.TypeA)))
	require.Empty(t, addressesIn(ask(t, d, "udp", "a.b.apps.example", dns.TypeA)))
}

func TestWithoutUpstreamsOtherNamesAreRefused(t *testing.T) {
	require.Equal(t, dns.RcodeRefused, ask(t, serve(t), "udp", "example.org", dns.TypeA).Rcode)
}

func TestADeadUpstreamIsPassedOver(t *testing.T) {
	alive := serve(t)
	alive.SetZone(Zone{"example.org": {netip.MustParseAddr("192.0.2.2")}})
	d := serve(t)
	d.SetUpstreams(append([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}, alive.Addresses()...))
	require.Equal(t, []string{"192.0.2.2"}, addressesIn(ask(t, d, "udp", "example.org", dns.TypeA)))
}

func FuzzDNSAnswer(f *testing.F) {
	q, err := new(dns.Msg).SetQuestion("box.", dns.TypeA).Pack()
	require.NoError(f, err)
	f.Add(q)
	notQuery := new(dns.Msg).SetNotify("box.")
	b, err := notQuery.Pack()
	require.NoError(f, err)
	f.Add(b)
	d := &DNS{zone: Zone{"box": {netip.MustParseAddr("10.1.0.1")}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(dns.Msg)
		if m.Unpack(b) != nil {
			return
		}
		if r := d.answer(m); r != nil && r.Id != m.Id {
			t.Fatalf("answer to question %d has ID %d", m.Id, r.Id)
		}
	})
}

func TestTheResolverIsOursUntilItIsGivenBack(t *testing.T) {
	root := t.TempDir()
	r := Resolver{Root: root}
	conf := filepath.Join(root, "etc", "resolv.conf")
	require.NoError(t, os.MkdirAll(filepath.Dir(conf), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "run"), 0o755))
	const before = "# the site's\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n"
	require.NoError(t, os.WriteFile(conf, []byte(before), 0o644))

	server := netip.MustParseAddr("10.1.0.1")
	for range 2 { // an agent that restarts finds its own file in place
		upstreams, err := r.Use(context.Background(), server, "kairos.muster")
		require.NoError(t, err)
		require.Equal(t, endpoints("192.0.2.53:53", "[2001:db8::53]:53"), upstreams)
		text, err := os.ReadFile(conf)
		require.NoError(t, err)
		require.Contains(t, string(text), "nameserver 10.1.0.1\nsearch kairos.muster\n")
	}
	for range 2 {
		require.NoError(t, r.Restore(context.Background()))
		text, err := os.ReadFile(conf)
		require.NoError(t, err)
		require.Equal(t, before, string(text))
	}
}

func TestSystemdResolvedIsToldByADropIn(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, resolvedRun), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, resolvedReal), []byte("nameserver 192.0.2.53\n"), 0o644))
	reloads := 0
	r := Resolver{Root: root, Reload: func(context.Context) error { reloads++; return nil }}
	for range 2 {
		upstreams, err := r.Use(context.Background(), netip.MustParseAddr("10.1.0.1"), "kairos.muster")
		require.NoError(t, err)
		require.Equal(t, endpoints("192.0.2.53:53"), upstreams)
	}
	require.Equal(t, 1, reloads, "nothing changed the second time")
	text, err := os.ReadFile(filepath.Join(root, resolvedDropIn))
	require.NoError(t, err)
	require.Equal(t, "[Resolve]\nDNS=10.1.0.1\nDomains=~. kairos.muster\n", string(text))
	require.NoError(t, r.Restore(context.Background()))
	require.NoFileExists(t, filepath.Join(root, resolvedDropIn))
	require.Equal(t, 2, reloads)
}
