package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// mailQueue is how many messages wait for one slow peer; the oldest is
	// dropped, as the machine says again what matters.
	mailQueue = 16
	// mailTimeout bounds opening a stream and writing one message.
	mailTimeout = 5 * time.Second
	// mailIdle is after what silence a stream is given up.
	mailIdle = 30 * time.Second
)

// mailroom carries messages to and from other founders: one stream per peer and
// direction, no promise of delivery.
type mailroom struct {
	ctx  context.Context
	host FoundingHost
	log  *slog.Logger
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	queues map[string]chan genesisMessage
}

func newMailroom(ctx context.Context, host FoundingHost, log *slog.Logger) *mailroom {
	return &mailroom{ctx: ctx, host: host, log: log, queues: make(map[string]chan genesisMessage)}
}

// wait returns when every goroutine has ended, after ctx has.
func (r *mailroom) wait() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wg.Wait()
}

// post never blocks.
func (r *mailroom) post(l letter) {
	to, err := peer.Decode(l.Peer)
	if err != nil {
		return // no message ever came from such a name
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	queue := r.queues[l.Peer]
	if queue == nil {
		queue = make(chan genesisMessage, mailQueue)
		r.queues[l.Peer] = queue
		r.wg.Go(func() { r.deliver(to, queue) })
	}
	for {
		select {
		case queue <- l.Message:
			return
		default:
		}
		select {
		case <-queue:
		default:
		}
	}
}

func (r *mailroom) deliver(to peer.ID, queue chan genesisMessage) {
	var s network.Stream
	defer func() {
		if s != nil {
			_ = s.Close() // what counted was flushed by Write
		}
	}()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-time.After(mailIdle):
			if r.retire(to.String(), queue) {
				return
			}
		case msg := <-queue:
			var err error
			if s, err = r.write(s, to, msg); err != nil && r.ctx.Err() == nil {
				r.log.Debug("founding message lost", "peer", to, "kind", string(msg.Kind), "error", err)
			}
		}
	}
}

// retire forgets an empty queue; post makes a new one.
func (r *mailroom) retire(to string, queue chan genesisMessage) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(queue) > 0 {
		return false
	}
	delete(r.queues, to)
	return true
}

// write sends on s, or on a new stream if there is none or it died since. It
// returns the stream to use next time.
func (r *mailroom) write(s network.Stream, to peer.ID, msg genesisMessage) (network.Stream, error) {
	if s != nil {
		if r.writeOn(s, msg) == nil {
			return s, nil
		}
		_ = s.Reset() // it is broken: nothing to add
	}
	ctx, cancel := context.WithTimeout(r.ctx, mailTimeout)
	defer cancel()
	s, err := r.host.Open(ctx, to, genesisProtocol)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	if err := r.writeOn(s, msg); err != nil {
		_ = s.Reset()
		return nil, err
	}
	return s, nil
}

func (r *mailroom) writeOn(s network.Stream, msg genesisMessage) error {
	// A peer that takes nothing must not hold up Close.
	stop := context.AfterFunc(r.ctx, func() { _ = s.Reset() })
	defer stop()
	if err := s.SetWriteDeadline(time.Now().Add(mailTimeout)); err != nil {
		return err
	}
	return writeGenesisMessage(s, msg)
}

// receive reads a peer's messages until it falls silent. The sender's name is
// the one that the connection authenticated.
func (r *mailroom) receive(s network.Stream, inbox chan<- letter) {
	r.mu.Lock()
	if r.closed || r.ctx.Err() != nil {
		r.mu.Unlock()
		_ = s.Reset()
		return
	}
	r.wg.Add(1)
	r.mu.Unlock()
	defer r.wg.Done()
	stop := context.AfterFunc(r.ctx, func() { _ = s.Reset() })
	defer stop()
	defer func() { _ = s.Reset() }() // nothing is ever sent back on it

	from := s.Conn().RemotePeer().String()
	for {
		if err := s.SetReadDeadline(time.Now().Add(2 * mailIdle)); err != nil {
			return
		}
		msg, err := readGenesisMessage(s)
		if err != nil {
			r.log.Debug("founding stream ends", "peer", from, "error", err)
			return
		}
		select {
		case inbox <- letter{from, msg}:
		case <-r.ctx.Done():
			return
		}
	}
}
