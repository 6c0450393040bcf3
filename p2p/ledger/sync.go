package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// syncRequest asks the coordinator how far the decisions have come.
type syncRequest struct {
	Version int  `json:"version"`
	Site    Site `json:"site"`
}

type syncAnswer struct {
	Version int    `json:"version"`
	Index   uint64 `json:"index,omitempty"`
	Later   string `json:"later,omitempty"` // why nothing can be said
}

// Sync returns nil when the local copy holds everything that was decided before
// Sync was called. A majority of the masters has then confirmed, after the call,
// who coordinates; nothing is written. It is what a lease rests on: what the copy
// says after Sync was still true when Sync was called.
//
// Errors: ErrNoQuorum when nobody could say within ctx or
// Timing.ProposeAttempt, ErrClosed.
func (l *Ledger) Sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timing.ProposeAttempt)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	if l.IsCoordinator() {
		index, err := l.confirm(ctx)
		if err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		return l.caughtUp(ctx, index)
	}
	c, known := l.Coordinator()
	if !known || c == l.cfg.Identity.ID() {
		return fmt.Errorf("sync: %w (no coordinator is known)", ErrNoQuorum)
	}
	var a syncAnswer
	if err := call(ctx, l.cfg.Host, c, ProtocolSync, syncRequest{Version: 1, Site: l.site}, &a); err != nil {
		return fmt.Errorf("sync: %w (ask %s: %w)", ErrNoQuorum, short(c), err)
	}
	if a.Version != 1 || a.Later != "" {
		return fmt.Errorf("sync: %w (%s: %.200s)", ErrNoQuorum, short(c), a.Later)
	}
	return l.caughtUp(ctx, a.Index)
}

func (l *Ledger) caughtUp(ctx context.Context, index uint64) error {
	if c, ok := l.Coordinator(); ok {
		if err := l.await(ctx, index, c); err == nil {
			return nil
		}
	}
	if l.ctx.Err() != nil {
		return fmt.Errorf("sync: %w", ErrClosed)
	}
	if l.Index() >= index {
		return nil
	}
	return fmt.Errorf("sync: %w (decision %d is not here yet)", ErrNoQuorum, index)
}

// confirm returns the index of the coordinator's copy once a majority has
// confirmed, after the call, that this node is still the coordinator. Every
// decision that anybody was told of before is in that copy: by this coordinator
// it was told after it was applied, and what earlier ones told was applied
// before this one took office.
func (l *Ledger) confirm(ctx context.Context) (uint64, error) {
	v := l.voting()
	if v == nil || !v.inOffice() {
		return 0, fmt.Errorf("%w: this node is not the coordinator", ErrNoQuorum)
	}
	done := make(chan error, 1)
	verify := func() {
		_, err := ask(v, v.raft.VerifyLeader)
		done <- err
	}
	if !l.spawn(verify) {
		return 0, ErrClosed
	}
	select {
	case err := <-done:
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrNoQuorum, err)
		}
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: no majority of the masters has answered", ErrNoQuorum)
	}
	// A term that ended in between may have been followed by another of ours.
	if !v.inOffice() {
		return 0, fmt.Errorf("%w: this node is no longer the coordinator", ErrNoQuorum)
	}
	return l.Index(), nil
}

// serveSync answers Sync of another node.
func (l *Ledger) serveSync(ctx context.Context, s network.Stream) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timing.ProposeAttempt)
	defer cancel()
	deadline, _ := ctx.Deadline()
	if err := s.SetDeadline(deadline.Add(time.Second)); err != nil {
		return err
	}
	var req syncRequest
	if err := readMessage(bufio.NewReader(s), &req); err != nil {
		return err
	}
	answer := syncAnswer{Version: 1}
	switch {
	case req.Version != 1:
		return errors.New("unknown version of the request")
	case req.Site != l.site:
		answer.Later = fmt.Sprintf("the question is for %v, this is %v", req.Site, l.site)
		return writeMessage(s, answer)
	}
	release, ok := l.hands.take(s.Conn().RemotePeer())
	if !ok {
		answer.Later = "too many questions in hand"
		return writeMessage(s, answer)
	}
	defer release()
	index, err := l.confirm(ctx)
	if err != nil {
		answer.Later = err.Error()
	}
	answer.Index = index
	return writeMessage(s, answer)
}
