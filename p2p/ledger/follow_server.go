package ledger

import (
	"bufio"
	"context"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// blockTimeout bounds one write to a follower that does not read.
const blockTimeout = 20 * time.Second

// serveFollow feeds one follower until it, or the ledger, goes away.
func (l *Ledger) serveFollow(ctx context.Context, s network.Stream) error {
	if err := s.SetDeadline(time.Now().Add(blockTimeout)); err != nil {
		return err
	}
	in := bufio.NewReader(s)
	var req followRequest
	if err := readMessage(in, &req); err != nil {
		return err
	}
	status := l.followStatus()
	if err := l.checkFollow(ctx, req); err != nil {
		status.Refused = err.Error()
		return l.sendStatus(s, status)
	}
	if err := s.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	// The follower says nothing more; its end of the stream ends this one.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		defer cancel()
		_, _ = io.Copy(io.Discard, in) // any end is the end
	}()
	err := l.feed(ctx, s, req.Index, status)
	if err != nil || ctx.Err() != nil {
		_ = s.Reset() // ends the read above
	} else {
		err = s.Close()
	}
	<-watching
	return err
}

func (l *Ledger) feed(ctx context.Context, s network.Stream, at uint64, said followStatus) error {
	if err := l.sendStatus(s, said); err != nil {
		return err
	}
	keepalive := time.NewTicker(l.cfg.Timing.Keepalive)
	defer keepalive.Stop()
	for {
		changed := l.Changed()
		next, err := l.sendSince(s, at)
		if err != nil {
			return err
		}
		at = next
		if l.voting() == nil {
			return nil // what this node has is all that it can promise
		}
		status := l.followStatus()
		if status.Coordinator != said.Coordinator {
			if err := l.sendStatus(s, status); err != nil {
				return err
			}
			said = status
		}
		select {
		case <-changed:
		case <-keepalive.C:
			if err := l.sendStatus(s, l.followStatus()); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// sendSince sends what a copy at that index lacks and returns where it is then.
func (l *Ledger) sendSince(s network.Stream, at uint64) (uint64, error) {
	batch, state := l.copy.since(at)
	if state != nil {
		head := &reader{rest: state[1:]} // behind the version
		index := head.uint()
		return index, l.sendBlock(s, append([]byte{blockState}, state...))
	}
	for len(batch) > 0 {
		n, size := 0, 0
		for n < len(batch) && size < commandsPerBlock {
			size += len(batch[n].data)
			n++
		}
		if err := l.sendBlock(s, encodeCommands(batch[:n])); err != nil {
			return at, err
		}
		at = batch[n-1].index
		batch = batch[n:]
	}
	return at, nil
}

func (l *Ledger) sendStatus(s network.Stream, st followStatus) error {
	b, err := encodeStatus(st)
	if err != nil {
		return err
	}
	return l.sendBlock(s, b)
}

func (l *Ledger) sendBlock(s network.Stream, b []byte) error {
	if err := s.SetWriteDeadline(time.Now().Add(blockTimeout)); err != nil {
		return err
	}
	return writeBlock(s, b)
}
