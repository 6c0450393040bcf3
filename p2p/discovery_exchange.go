package p2p

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
)

// exchangeProtocol hands out where a node's peers are, so that one bootstrap
// address leads to the whole network. Both ends of a new connection ask, at once
// and a little later: of two nodes that connect to a third, the later learns of
// the earlier, and of two that come at one instant the second question tells.
// Nothing is sent while nobody comes.
//
// The answer is a count (2 bytes), then per peer its ID and a list of addresses:
// length (1) ‖ ID ‖ count (1) ‖ { length (1) ‖ binary multiaddr }. Its end is the
// end of the stream.
const exchangeProtocol protocol.ID = "/muster/peers/1"

const (
	exchangeDeadline = 10 * time.Second
	maxExchangePeers = 256 // a random choice of more; the rest comes from the others
	maxExchange      = 128 << 10
	exchangeAgain    = 10 * time.Second

	// A node that finds a hundred others at once need not ask them all.
	maxExchanges   = 8
	exchangeWindow = time.Minute
)

// exchange asks a peer that has just come for others. Only keepBook calls it.
func (d *Discovery) exchange(ctx context.Context, p peer.ID) {
	if now := time.Now(); now.Sub(d.exchangesSince) > exchangeWindow {
		d.exchangesSince, d.exchanges = now, 0
	}
	if d.exchanges >= maxExchanges {
		return
	}
	d.exchanges++
	d.wg.Go(func() {
		for _, wait := range []time.Duration{0, exchangeAgain} {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			infos, err := d.ask(ctx, p)
			if err != nil {
				d.log.Debug("ask for peers", "peer", p.String(), "error", err)
			}
			through := circuitVia(p)
			for _, info := range infos {
				if !d.host.connected(info.ID) {
					if !d.host.relayed(p) {
						info.Addrs = append(info.Addrs, through)
					}
					d.dialer.learn(info)
				}
			}
		}
	})
}

func (d *Discovery) ask(ctx context.Context, p peer.ID) ([]peer.AddrInfo, error) {
	s, err := d.host.Open(network.WithNoDial(ctx, "asked on arrival only"), p, exchangeProtocol)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Reset() }() // all is read, or nothing will be
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	if err := s.SetDeadline(time.Now().Add(exchangeDeadline)); err != nil {
		return nil, err
	}
	if err := s.CloseWrite(); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(s, maxExchange+1))
	if err != nil {
		return nil, err
	}
	return decodeExchange(raw)
}

func (d *Discovery) serveExchange(s network.Stream) {
	err := s.SetDeadline(time.Now().Add(exchangeDeadline))
	if err == nil {
		_, err = s.Write(encodeExchange(d.exchangeable(s.Conn().RemotePeer())))
	}
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		d.log.Debug("tell peers", "peer", s.Conn().RemotePeer().String(), "error", err)
		_ = s.Reset()
	}
}

// exchangeable lists connected peers other than the one who asks.
func (d *Discovery) exchangeable(asker peer.ID) []peer.AddrInfo {
	var out []peer.AddrInfo
	for _, p := range d.host.Peers() {
		if p.ID == asker || p.Standing == StandingRevoked {
			continue
		}
		if addrs := boundAddrs(d.host.addrsOf(p.ID)); len(addrs) > 0 {
			out = append(out, peer.AddrInfo{ID: p.ID, Addrs: addrs})
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out[:min(len(out), maxExchangePeers)]
}

func encodeExchange(infos []peer.AddrInfo) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(infos)))
	for _, info := range infos {
		b = append(append(b, byte(len(info.ID))), info.ID...)
		b = append(b, byte(len(info.Addrs)))
		for _, addr := range info.Addrs {
			raw := addr.Bytes()
			if len(raw) > 255 {
				raw = nil // read as "no address" by decodeExchange
			}
			b = append(append(b, byte(len(raw))), raw...)
		}
	}
	return b
}

var errExchangeCut = errors.New("peers: the answer is cut short")

func decodeExchange(b []byte) ([]peer.AddrInfo, error) {
	if len(b) > maxExchange {
		return nil, fmt.Errorf("peers: more than %d bytes", maxExchange)
	}
	if len(b) < 2 {
		return nil, errExchangeCut
	}
	count := int(binary.BigEndian.Uint16(b))
	if count > maxExchangePeers {
		return nil, fmt.Errorf("peers: %d of them, at most %d are allowed", count, maxExchangePeers)
	}
	b = b[2:]
	var infos []peer.AddrInfo
	for range count {
		field, rest, ok := cutField(b)
		if !ok || len(rest) == 0 {
			return nil, errExchangeCut
		}
		id, err := peer.IDFromBytes(field)
		if err != nil {
			return nil, fmt.Errorf("peers: %w", err)
		}
		info := peer.AddrInfo{ID: id}
		addrs := int(rest[0])
		if addrs > maxBookAddrs {
			return nil, fmt.Errorf("peers: %d addresses of %s, at most %d are allowed", addrs, id, maxBookAddrs)
		}
		b = rest[1:]
		for range addrs {
			if field, b, ok = cutField(b); !ok {
				return nil, errExchangeCut
			}
			// A later version may know transports that we do not.
			if addr, err := multiaddr.NewMultiaddrBytes(field); err == nil {
				info.Addrs = append(info.Addrs, addr)
			}
		}
		infos = append(infos, info)
	}
	if len(b) > 0 {
		return nil, errors.New("peers: more than was announced")
	}
	return infos, nil
}
