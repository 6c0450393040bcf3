package p2p

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// greetProtocol carries one greeting, as in admission, and one byte back once it
// is known.
const greetProtocol protocol.ID = "/muster/greet/1"

const (
	greetDeadline = 10 * time.Second
	greetRetry    = time.Second
)

// SetGreeting changes what peers are told. Those connected are told at once, and
// again until they know; those that come are told at admission. A site name
// that is longer than 64 bytes is refused, in the log.
func (h *Host) SetGreeting(g Greeting) {
	if len(g.Site) > maxSite {
		h.log.Error("greeting refused", "error", fmt.Errorf("site name of %d bytes, at most %d are allowed", len(g.Site), maxSite))
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ours.Greeting == g {
		return
	}
	h.ours.Greeting = g
	h.ours.Sequence++
	for p, state := range h.peers {
		h.tellLocked(p, state)
	}
}

func (h *Host) salutation() salutation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ours
}

// tellLocked sees to it that a peer learns our greeting. At most one goroutine
// per peer is at it.
func (h *Host) tellLocked(p peer.ID, state *peerState) {
	if state.told >= h.ours.Sequence || state.telling || h.closed {
		return
	}
	state.telling = true
	h.wg.Go(func() { h.tell(p, state) })
}

func (h *Host) tell(p peer.ID, state *peerState) {
	for {
		h.mu.Lock()
		ours := h.ours
		if state.told >= ours.Sequence || h.peers[p] != state {
			state.telling = false
			h.mu.Unlock()
			return
		}
		h.mu.Unlock()

		err := h.greet(p, ours)
		if err == nil {
			h.mu.Lock()
			state.told = max(state.told, ours.Sequence)
			h.mu.Unlock()
			continue
		}
		h.log.Debug("greet", "peer", p.String(), "error", err)
		select {
		case <-h.ctx.Done():
			return
		case <-time.After(greetRetry):
		}
	}
}

func (h *Host) greet(p peer.ID, ours salutation) error {
	s, err := h.Open(network.WithNoDial(h.ctx, "a peer that left is greeted when it returns"), p, greetProtocol)
	if err != nil {
		return err
	}
	err = s.SetDeadline(time.Now().Add(greetDeadline))
	if err == nil {
		err = writeFrame(s, ours.encode())
	}
	if err == nil {
		_, err = io.ReadFull(s, make([]byte, 1)) // QUIC gives the last byte and EOF at once
	}
	if err != nil {
		return errors.Join(fmt.Errorf("greet %s: %w", p, err), s.Reset())
	}
	_ = s.Close() // they know, and may have hung up first
	return nil
}

func (h *Host) handleGreet(s network.Stream) {
	if err := h.hear(s); err != nil {
		h.log.Debug("hear a greeting", "peer", s.Conn().RemotePeer().String(), "error", err)
		_ = s.Reset()
	}
}

func (h *Host) hear(s network.Stream) error {
	if err := s.SetDeadline(time.Now().Add(greetDeadline)); err != nil {
		return err
	}
	raw, err := readFrame(s)
	if err != nil {
		return err
	}
	theirs, err := decodeSalutation(raw)
	if err != nil {
		return err
	}
	h.mu.Lock()
	state, ok := h.peers[s.Conn().RemotePeer()]
	newer := ok && theirs.newerThan(state.theirs)
	if newer {
		state.theirs = theirs
	}
	h.mu.Unlock()
	if !ok {
		return errors.New("not connected any more")
	}
	if newer {
		h.changed.Notify()
	}
	if _, err := s.Write([]byte{1}); err != nil {
		return err
	}
	return s.Close()
}
