package vpn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Zone holds what the mesh's DNS answers by itself, by name in lower case
// without the final dot. A name that is here with no address of the asked
// family answers "no data", so that it does not leak to an upstream server.
type Zone map[string][]netip.Addr

// Suffix is the top of the names that the mesh answers for and never forwards.
const Suffix = "muster"

// HostZone returns the names under which a node is known: its hostname alone
// and under <network_id>.muster.
func HostZone(networkID string, hosts map[string]netip.Addr) Zone {
	z := Zone{}
	for host, address := range hosts {
		host = strings.ToLower(host)
		z[host] = []netip.Addr{address}
		z[host+"."+strings.ToLower(networkID)+"."+Suffix] = []netip.Addr{address}
	}
	return z
}

// lookup finds a name, or the wildcard of its parent ("*.apps.example"; one
// label, RFC 4592's usual case).
func (z Zone) lookup(name string) ([]netip.Addr, bool) {
	if addresses, ok := z[name]; ok {
		return addresses, true
	}
	_, parent, _ := strings.Cut(name, ".")
	addresses, ok := z["*."+parent]
	return addresses, ok
}

// answerTTL is short because an address record may be changed by an operator at
// any time and everybody who asks is near, in seconds.
const answerTTL = 10

// forwardTimeout bounds one upstream server; the stub resolver's own default is
// five seconds in all (resolv.conf(5)).
const forwardTimeout = 2 * time.Second

// DNS answers for the mesh on this node.
type DNS struct {
	log     *slog.Logger
	servers []*dns.Server
	done    sync.WaitGroup

	mu        sync.RWMutex
	zone      Zone
	upstreams []netip.AddrPort
}

// ServeDNS listens on UDP and TCP on every address given. It answers from an
// empty zone until SetZone.
func ServeDNS(listen []netip.AddrPort, log *slog.Logger) (*DNS, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &DNS{log: log}
	for _, address := range listen {
		if err := d.listen(address); err != nil {
			return nil, errors.Join(fmt.Errorf("serve DNS on %s: %w", address, err), d.Close())
		}
	}
	return d, nil
}

func (d *DNS) listen(address netip.AddrPort) error {
	packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(address))
	if err != nil {
		return err
	}
	// With port 0 the kernel chooses, and TCP has to be on the same number.
	bound := packets.LocalAddr().(*net.UDPAddr).AddrPort()
	streams, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(bound))
	if err != nil {
		return errors.Join(err, packets.Close())
	}
	for _, server := range []*dns.Server{
		{PacketConn: packets, Handler: d},
		{Listener: streams, Handler: d},
	} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		d.servers = append(d.servers, server)
		d.done.Go(func() {
			if err := server.ActivateAndServe(); err != nil {
				d.log.Warn("DNS server ended", "error", err)
			}
		})
		<-started
	}
	return nil
}

// Addresses returns where the server listens on UDP.
func (d *DNS) Addresses() []netip.AddrPort {
	var all []netip.AddrPort
	for _, s := range d.servers {
		if s.PacketConn != nil {
			all = append(all, s.PacketConn.LocalAddr().(*net.UDPAddr).AddrPort())
		}
	}
	return all
}

// SetZone replaces what the server answers by itself.
func (d *DNS) SetZone(z Zone) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.zone = z
}

// SetUpstreams replaces the servers that are asked for everything else, in
// order. With none, such questions are refused.
func (d *DNS) SetUpstreams(servers []netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.upstreams = servers
}

// ServeDNS implements dns.Handler.
func (d *DNS) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	reply := d.answer(q)
	if reply == nil {
		var transport string
		if _, ok := w.RemoteAddr().(*net.TCPAddr); ok {
			transport = "tcp"
		}
		reply = d.forward(q, transport)
	}
	// The other end is gone when this fails; it will ask again.
	_ = w.WriteMsg(reply)
}

// answer returns nil when the question is not the mesh's to answer.
func (d *DNS) answer(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 {
		return m.SetRcode(q, dns.RcodeNotImplemented)
	}
	question := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	d.mu.RLock()
	addresses, ours := d.zone.lookup(name)
	d.mu.RUnlock()
	if !ours {
		if name == Suffix || strings.HasSuffix(name, "."+Suffix) {
			m.SetRcode(q, dns.RcodeNameError)
			m.Authoritative = true
			return m
		}
		return nil
	}
	m.SetReply(q)
	m.Authoritative = true
	m.RecursionAvailable = true
	header := dns.RR_Header{Name: question.Name, Class: dns.ClassINET, Ttl: answerTTL}
	for _, a := range addresses {
		switch {
		case question.Qtype == dns.TypeA && a.Is4():
			header.Rrtype = dns.TypeA
			m.Answer = append(m.Answer, &dns.A{Hdr: header, A: a.AsSlice()})
		case question.Qtype == dns.TypeAAAA && a.Is6():
			header.Rrtype = dns.TypeAAAA
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header, AAAA: a.AsSlice()})
		}
	}
	return m
}

func (d *DNS) forward(q *dns.Msg, transport string) *dns.Msg {
	d.mu.RLock()
	upstreams := d.upstreams
	d.mu.RUnlock()
	m := new(dns.Msg)
	if len(upstreams) == 0 {
		return m.SetRcode(q, dns.RcodeRefused)
	}
	client := &dns.Client{Net: transport, Timeout: forwardTimeout}
	for _, server := range upstreams {
		ctx, cancel := context.WithTimeout(context.Background(), forwardTimeout)
		reply, _, err := client.ExchangeContext(ctx, q, server.String())
		cancel()
		if err == nil {
			return reply
		}
		d.log.Debug("DNS upstream did not answer", "server", server, "error", err)
	}
	return m.SetRcode(q, dns.RcodeServerFailure)
}

// Close stops listening and waits for the servers to end.
func (d *DNS) Close() error {
	var all error
	for _, s := range d.servers {
		all = errors.Join(all, s.Shutdown())
	}
	d.done.Wait()
	return all
}
