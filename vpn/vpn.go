package vpn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// InterfaceName is the mesh's network interface on every node.
const InterfaceName = "muster0"

// Options say how the device is made.
type Options struct {
	// Interface is the device's name; InterfaceName if empty.
	Interface string
	// Mode is ModeAuto if empty.
	Mode Mode
	Log  *slog.Logger
}

// VPN is this node's end of the encrypted network.
type VPN struct {
	name    string
	link    link
	control *wgctrl.Client
	log     *slog.Logger

	mu      sync.Mutex
	applied Config
	walkers map[wgtypes.Key]*endpointWalk
	held    map[wgtypes.Key]bool // their endpoint is Paths' to choose
}

// Open brings the device up, without an address or peers; Apply gives it those.
// An existing kernel device is taken over with the peers it has.
func Open(opts Options) (*VPN, error) {
	if opts.Interface == "" {
		opts.Interface = InterfaceName
	}
	if opts.Mode == "" {
		opts.Mode = ModeAuto
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	link, err := openLink(opts.Interface, opts.Mode, MTUFor(underlayMTU()), opts.Log)
	if err != nil {
		return nil, err
	}
	control, err := wgctrl.New()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open VPN device %s: %w", opts.Interface, err), link.close())
	}
	return &VPN{
		name: opts.Interface, link: link, control: control, log: opts.Log,
		walkers: map[wgtypes.Key]*endpointWalk{}, held: map[wgtypes.Key]bool{},
	}, nil
}

// Mode tells whether WireGuard runs in the kernel or in this process.
func (v *VPN) Mode() Mode { return v.link.mode() }

// Apply makes the device match the configuration and leaves alone what matches
// already; running connections survive. Candidates that no packet can be sent to
// are passed over. It is idempotent. On an error the
// device may be half configured, and the next Apply repairs it.
func (v *VPN) Apply(cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	if cfg.Port == 0 {
		cfg.Port = DefaultPort
	}
	if cfg.MTU == 0 {
		cfg.MTU = MTUFor(underlayMTU())
	}
	cfg.Peers = slices.Clone(cfg.Peers)
	for i := range cfg.Peers {
		cfg.Peers[i].Candidates = usable(cfg.Peers[i].Candidates)
		cfg.Peers[i].Own = usable(cfg.Peers[i].Own)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	current, err := v.control.Device(v.name)
	if err != nil {
		return fmt.Errorf("configure VPN: read %s: %w", v.name, err)
	}
	if err := v.control.ConfigureDevice(v.name, v.changes(current, cfg)); err != nil {
		return fmt.Errorf("configure VPN: %w", err)
	}
	if err := applyLink(v.name, cfg); err != nil {
		return fmt.Errorf("configure VPN: %w", err)
	}
	v.applied = cfg
	return nil
}

// changes returns the smallest configuration that leads from current to wanted.
func (v *VPN) changes(current *wgtypes.Device, wanted Config) wgtypes.Config {
	var c wgtypes.Config
	if current.PrivateKey != wanted.PrivateKey {
		c.PrivateKey = &wanted.PrivateKey
	}
	if current.ListenPort != wanted.Port {
		c.ListenPort = &wanted.Port
	}
	existing := map[wgtypes.Key]wgtypes.Peer{}
	for _, p := range current.Peers {
		existing[p.PublicKey] = p
	}
	for _, p := range wanted.Peers {
		was, known := existing[p.PublicKey]
		delete(existing, p.PublicKey)
		walk := v.walkers[p.PublicKey]
		if walk == nil {
			walk = &endpointWalk{begun: time.Now()}
			v.walkers[p.PublicKey] = walk
		}
		change := wgtypes.PeerConfig{PublicKey: p.PublicKey, UpdateOnly: known}
		moved := walk.offer(p.Candidates)
		if endpoint, ok := walk.current(); ok && (!known || moved && was.LastHandshakeTime.IsZero() && !v.held[p.PublicKey]) {
			change.Endpoint = net.UDPAddrFromAddrPort(endpoint)
		}
		allowed := hostRoute(p.Address)
		if !known || len(was.AllowedIPs) != 1 || was.AllowedIPs[0].String() != allowed.String() {
			change.ReplaceAllowedIPs = true
			change.AllowedIPs = []net.IPNet{allowed}
		}
		if !known || change.Endpoint != nil || change.ReplaceAllowedIPs {
			c.Peers = append(c.Peers, change)
		}
	}
	for key := range existing {
		delete(v.walkers, key)
		delete(v.held, key)
		c.Peers = append(c.Peers, wgtypes.PeerConfig{PublicKey: key, Remove: true})
	}
	return c
}

// Peers returns what the device knows of every peer of the last Apply.
func (v *VPN) Peers() ([]PeerStatus, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	current, err := v.control.Device(v.name)
	if err != nil {
		return nil, fmt.Errorf("read VPN device %s: %w", v.name, err)
	}
	byKey := map[wgtypes.Key]Peer{}
	for _, p := range v.applied.Peers {
		byKey[p.PublicKey] = p
	}
	var all []PeerStatus
	for _, p := range current.Peers {
		known, ours := byKey[p.PublicKey]
		if !ours {
			continue
		}
		all = append(all, PeerStatus{
			ID: known.ID, Address: known.Address, Endpoint: endpointOf(p),
			LastHandshake: p.LastHandshakeTime, ReceivedBytes: p.ReceiveBytes, SentBytes: p.TransmitBytes,
		})
	}
	slices.SortFunc(all, func(a, b PeerStatus) int { return a.Address.Compare(b.Address) })
	return all, nil
}

// Probe wakes the tunnels that have no handshake yet and moves a peer that did
// not answer on to its next candidate. It returns how many peers still wait, so
// that the caller calls again (a few seconds apart) only while there is
// something to find: a mesh that is whole stays silent.
func (v *VPN) Probe(ctx context.Context) (waiting int, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	current, err := v.control.Device(v.name)
	if err != nil {
		return 0, fmt.Errorf("probe VPN peers: %w", err)
	}
	handshakes := map[wgtypes.Key]time.Time{}
	for _, p := range current.Peers {
		handshakes[p.PublicKey] = p.LastHandshakeTime
	}
	var c wgtypes.Config
	var knocks []netip.Addr
	for _, p := range v.applied.Peers {
		walk := v.walkers[p.PublicKey]
		if handshakes[p.PublicKey].IsZero() && walk != nil && !v.leads(p.PublicKey) && time.Since(walk.begun) < followerGrace {
			waiting++
			continue
		}
		if handshakes[p.PublicKey].IsZero() {
			knocks = append(knocks, p.Address)
		}
		if !handshakes[p.PublicKey].IsZero() || v.held[p.PublicKey] || walk == nil || len(p.Candidates) == 0 {
			continue
		}
		waiting++
		if endpoint, again := walk.next(); again {
			c.Peers = append(c.Peers, anew(p, endpoint)...)
		}
	}
	if len(c.Peers) > 0 {
		if err := v.control.ConfigureDevice(v.name, c); err != nil {
			return waiting, fmt.Errorf("probe VPN peers: %w", err)
		}
	}
	for _, to := range knocks {
		knock(ctx, to)
	}
	return waiting, nil
}

// anew makes a peer anew, since WireGuard begins a handshake with a peer at most
// every five seconds (RekeyTimeout), wherever that peer is now. Packets that wait for
// the handshake are lost.
func anew(p Peer, to netip.AddrPort) []wgtypes.PeerConfig {
	return []wgtypes.PeerConfig{
		{PublicKey: p.PublicKey, Remove: true},
		{
			PublicKey: p.PublicKey, Endpoint: net.UDPAddrFromAddrPort(to),
			ReplaceAllowedIPs: true, AllowedIPs: []net.IPNet{hostRoute(p.Address)},
		},
	}
}

// endpointOf is where the device sends a peer's packets; invalid: nowhere yet.
func endpointOf(p wgtypes.Peer) netip.AddrPort {
	if p.Endpoint == nil {
		return netip.AddrPort{}
	}
	at := p.Endpoint.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// knock sends one empty datagram to the discard port, which makes WireGuard
// start a handshake. Whether it arrives is the handshake's to tell.
func knock(ctx context.Context, to netip.Addr) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", netip.AddrPortFrom(to, 9).String())
	if err != nil {
		return
	}
	_, _ = c.Write([]byte{0})
	_ = c.Close()
}

// Close ends the device where it lives in this process. The kernel's device
// stays and goes on carrying packets; Remove takes that away too.
func (v *VPN) Close() error {
	return errors.Join(v.control.Close(), v.link.close())
}

// Remove closes the VPN and deletes its interface.
func (v *VPN) Remove() error {
	err := v.Close()
	l, lookup := netlink.LinkByName(v.name)
	if lookup != nil {
		return err // gone with the process that held it
	}
	return errors.Join(err, netlink.LinkDel(l))
}

func applyLink(name string, cfg Config) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	if l.Attrs().MTU != cfg.MTU {
		if err := netlink.LinkSetMTU(l, cfg.MTU); err != nil {
			return fmt.Errorf("set MTU of %s to %d: %w", name, cfg.MTU, err)
		}
	}
	addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", name, err)
	}
	wanted := &netlink.Addr{IPNet: &net.IPNet{
		IP:   cfg.Address.Addr().AsSlice(),
		Mask: net.CIDRMask(cfg.Address.Bits(), cfg.Address.Addr().BitLen()),
	}}
	present := false
	for _, a := range addresses {
		switch {
		case a.Equal(*wanted):
			present = true
		case a.IP.IsLinkLocalUnicast():
		default:
			if err := netlink.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("remove address %s from %s: %w", a.IPNet, name, err)
			}
		}
	}
	if !present {
		if err := netlink.AddrAdd(l, wanted); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("add address %s to %s: %w", cfg.Address, name, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// underlayMTU returns the smallest MTU of the interfaces that packets of the
// tunnel may leave by.
func underlayMTU() int {
	mtu := 1500
	interfaces, err := net.Interfaces()
	if err != nil {
		return mtu
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 || overlay(i.Name) {
			continue
		}
		mtu = min(mtu, i.MTU)
	}
	return mtu
}

func hostRoute(a netip.Addr) net.IPNet {
	return net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}
