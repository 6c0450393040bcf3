package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// followClient keeps the local copy up to date from another node's. On a voter
// it follows the coordinator: Raft tells a voter what is committed only with the
// next entry or after CommitInterval, the stream tells it at once.
type followClient struct {
	l *Ledger

	mu         sync.Mutex
	wish       peer.ID // asked first, once
	avoid      peer.ID // asked last, once
	server     peer.ID // whose stream is open
	begun      time.Time
	leave      context.CancelFunc
	last       followStatus
	heard      time.Time // when last was received
	superseded uint64    // a generation higher than ours that a server named
}

func newFollowClient(l *Ledger) *followClient { return &followClient{l: l} }

// coordinator returns the coordinator that the server named.
func (f *followClient) coordinator() (peer.ID, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == "" || f.last.Coordinator == "" {
		return "", false
	}
	id, err := peer.Decode(f.last.Coordinator)
	return id, err == nil
}

// prefer leaves the present server for one that is known to be further.
func (f *followClient) prefer(id peer.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id == "" || id == f.server || id == f.l.cfg.Identity.ID() {
		return
	}
	f.wish = id
	if f.leave != nil {
		f.leave()
	}
}

// lost leaves the stream of a server that others lost after it began.
func (f *followClient) lost(id peer.ID, since time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id == f.server && f.begun.Before(since) {
		f.avoid = id
		f.leave()
	}
}

func (f *followClient) run(ctx context.Context) {
	for rounds := 1; ctx.Err() == nil; rounds++ {
		changed := f.l.Changed()
		candidates := f.order(f.l.following())
		outcome := streamFailed
		for _, id := range candidates {
			if outcome = f.stream(ctx, id); outcome != streamFailed {
				break
			}
		}
		switch {
		case outcome == streamLeft:
			rounds = 0
			continue // for somebody better
		case outcome == streamEnded:
			rounds = 1
		case len(candidates) > 0:
			changed = nil // no reason to hurry back to who failed
		}
		// Nobody there: ask less often, since each round dials every voter.
		retry := f.l.cfg.Timing.FollowRetry * time.Duration(min(rounds, maxFollowBackoff))
		wait := time.NewTimer(retry + rand.N(retry))
		select {
		case <-changed:
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
}

// maxFollowBackoff bounds the pause between two rounds, in FollowRetry.
const maxFollowBackoff = 6

type streamOutcome int

const (
	streamFailed   streamOutcome = iota // it brought nothing: ask the next server
	streamCaughtUp                      // a follower gave what it had
	streamEnded                         // a voter's stream ended after some time
	streamLeft                          // left on purpose
)

// order returns whom to ask, in turn: the wish, then voters in random order (so
// that they share the followers), then other members, and last who was lost.
func (f *followClient) order(from []peer.ID) []peer.ID {
	voters := f.l.voters()
	rand.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
	f.mu.Lock()
	wish, avoid := f.wish, f.avoid
	f.wish, f.avoid = "", ""
	f.mu.Unlock()
	rank := func(p peer.ID) int {
		switch {
		case p == wish:
			return 0
		case p == avoid:
			return 3
		case slices.Contains(voters, p):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(from, func(a, b peer.ID) int { return rank(a) - rank(b) })
	return from
}

// stream follows one server until the stream ends or there is a better one.
func (f *followClient) stream(ctx context.Context, id peer.ID) streamOutcome {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	left := make(chan struct{})
	leave := sync.OnceFunc(func() { close(left); cancel() })
	f.mu.Lock()
	f.leave, f.begun = leave, time.Now()
	f.mu.Unlock()

	var watch sync.WaitGroup
	if f.l.voting() != nil {
		watch.Go(func() { f.watchCoordinator(ctx, id, leave) })
	}
	outcome, err := f.follow(ctx, id)
	cancel()
	watch.Wait()

	f.mu.Lock()
	f.leave = nil
	named := f.server != ""
	f.server = ""
	f.mu.Unlock()
	if named {
		f.l.changed.Notify() // the coordinator that it named is hearsay now
	}
	select {
	case <-left:
		return streamLeft
	default:
	}
	if err != nil && f.l.ctx.Err() == nil {
		f.l.cfg.Log.Debug("follower stream ended", "peer", id, "error", err)
	}
	return outcome
}

// watchCoordinator leaves a voter's stream when its server is not the
// coordinator any more.
func (f *followClient) watchCoordinator(ctx context.Context, id peer.ID, leave func()) {
	for {
		changed := f.l.Changed()
		if !slices.Contains(f.l.following(), id) {
			leave()
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (f *followClient) follow(ctx context.Context, id peer.ID) (outcome streamOutcome, err error) {
	l := f.l
	opening, opened := context.WithTimeout(ctx, l.cfg.Timing.ProposeAttempt)
	s, err := l.cfg.Host.Open(opening, id, ProtocolFollow)
	opened()
	if err != nil {
		return streamFailed, err
	}
	defer func() { _ = s.Reset() }() // nothing is owed to the server
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	patience := 2*l.cfg.Timing.Keepalive + time.Second
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return streamFailed, err
	}
	if err := writeMessage(s, followRequest{Version: 1, Site: l.site, Index: l.Index()}); err != nil {
		return streamFailed, err
	}
	in := bufio.NewReader(s)
	leaderless := 0 // keepalives in a row that name no coordinator
	for {
		if err := s.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return outcome, err
		}
		raw, err := readBlock(in, maxBlock)
		if closedByPeer(err) {
			return outcome, nil
		}
		if err != nil {
			return outcome, err
		}
		b, err := decodeBlock(raw)
		if err != nil {
			return outcome, fmt.Errorf("follow %s: %w", short(id), err)
		}
		switch {
		case b.state != nil:
			err = l.copy.install(b.state)
			outcome = max(outcome, streamCaughtUp)
		case b.commands != nil:
			err = l.copy.follow(b.commands)
			outcome = max(outcome, streamCaughtUp)
		default:
			if err = f.note(id, *b.status); err == nil && b.status.Voter {
				outcome = streamEnded
			}
			if leaderless++; b.status.Coordinator != "" {
				leaderless = 0
			}
		}
		if err != nil {
			return outcome, err
		}
		if leaderless > 2 && len(l.voters()) > 1 {
			// It may be on the smaller side of a cut.
			return streamFailed, errors.New("the server knows no coordinator")
		}
	}
}

// note keeps what the server says of itself.
func (f *followClient) note(id peer.ID, s followStatus) error {
	if s.Refused != "" {
		if s.Site.ID == f.l.site.ID && Supersedes(s.Site.Generation, f.l.site.Generation) {
			f.mu.Lock()
			f.superseded = max(f.superseded, s.Site.Generation)
			f.mu.Unlock()
			f.l.changed.Notify()
		}
		return fmt.Errorf("refused: %s", s.Refused)
	}
	if s.Site != f.l.site {
		return fmt.Errorf("the server is of %v", s.Site)
	}
	f.mu.Lock()
	news := f.server != id || f.last.Coordinator != s.Coordinator
	f.server, f.last, f.heard = id, s, time.Now()
	f.mu.Unlock()
	if news {
		f.l.changed.Notify()
	}
	return nil
}
