package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// surveyTimeout bounds the question to one node; fetchTimeout the reading of its
// whole copy.
const (
	surveyTimeout = 5 * time.Second
	fetchTimeout  = 60 * time.Second
)

// Sighting is what a node answered when it was asked for its copy.
type Sighting struct {
	Node  peer.ID
	Site  Site
	Index uint64
	// Voter: it runs Raft. Coordinator is whom it knows to decide, "" for nobody.
	Voter       bool
	Coordinator string
}

// Copy is the decisions of a site at one index, in one generation, as some node
// had them.
type Copy struct {
	site  Site
	state *state
}

// Site returns what the copy is of.
func (c Copy) Site() Site { return c.site }

// View returns the decisions.
func (c Copy) View() View { return c.state.view() }

// Copy returns this node's own.
func (l *Ledger) Copy() (Copy, error) {
	s, err := decodeState(l.copy.encode())
	return Copy{l.site, s}, err
}

// Survey asks every member in reach what it has. This node's own copy comes
// first; who does not answer is left out.
func (l *Ledger) Survey(ctx context.Context) []Sighting {
	own := l.followStatus()
	all := []Sighting{{Node: l.cfg.Identity.ID(), Site: own.Site, Index: own.Index, Voter: own.Voter, Coordinator: own.Coordinator}}
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, id := range l.members() {
		asked.Go(func() {
			s, err := l.ask(ctx, id)
			if err != nil {
				l.cfg.Log.Debug("asked for its copy of the decisions", "peer", id, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, s)
		})
	}
	asked.Wait()
	return all
}

// ask is a follower's first message, for the sake of the answer's head.
func (l *Ledger) ask(ctx context.Context, id peer.ID) (Sighting, error) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	s, _, status, err := openFollow(ctx, l.cfg.Host, id, l.site, math.MaxUint64)
	if err != nil {
		return Sighting{}, err
	}
	_ = s.Reset() // nothing is owed to the server
	if status.Site.ID != l.site.ID {
		return Sighting{}, fmt.Errorf("it is of %v", status.Site)
	}
	return Sighting{Node: id, Site: status.Site, Index: status.Index, Voter: status.Voter, Coordinator: status.Coordinator}, nil
}

// FetchCopy reads a member's whole copy, of the site and generation named. It
// asks as a follower of that generation does.
func FetchCopy(ctx context.Context, host Host, from peer.ID, site Site) (Copy, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	c, err := fetchCopy(ctx, host, from, site)
	if err != nil {
		return Copy{}, fmt.Errorf("fetch the decisions of %v from %s: %w", site, short(from), err)
	}
	return c, nil
}

func fetchCopy(ctx context.Context, host Host, from peer.ID, site Site) (Copy, error) {
	s, in, status, err := openFollow(ctx, host, from, site, 0)
	if err != nil {
		return Copy{}, err
	}
	defer func() { _ = s.Reset() }() // nothing is owed to the server
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if status.Refused != "" {
		return Copy{}, errors.New(status.Refused)
	}
	if status.Site != site {
		return Copy{}, fmt.Errorf("it is of %v", status.Site)
	}
	got := newState()
	for got.index < status.Index {
		raw, err := readBlock(in, maxBlock)
		if err != nil {
			return Copy{}, err
		}
		b, err := decodeBlock(raw)
		switch {
		case err != nil:
			return Copy{}, err
		case b.state != nil:
			if got, err = decodeState(b.state); err != nil {
				return Copy{}, err
			}
		}
		for _, c := range b.commands {
			if c.prev != got.index {
				return Copy{}, fmt.Errorf("command %d follows %d, the copy is at %d", c.index, c.prev, got.index)
			}
			got.apply(c.index, c.data)
		}
	}
	return Copy{site, got}, nil
}

// openFollow opens a follower stream and reads the server's first status.
func openFollow(ctx context.Context, host Host, id peer.ID, site Site, index uint64) (network.Stream, *bufio.Reader, followStatus, error) {
	s, err := host.Open(ctx, id, ProtocolFollow)
	if err != nil {
		return nil, nil, followStatus{}, err
	}
	in := bufio.NewReader(s)
	status, err := beginFollow(ctx, s, in, site, index)
	if err != nil {
		_ = s.Reset() // err is what went wrong
		return nil, nil, followStatus{}, err
	}
	return s, in, status, nil
}

func beginFollow(ctx context.Context, s network.Stream, in *bufio.Reader, site Site, index uint64) (followStatus, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := s.SetDeadline(deadline); err != nil {
			return followStatus{}, err
		}
	}
	if err := writeMessage(s, followRequest{Version: 1, Site: site, Index: index}); err != nil {
		return followStatus{}, err
	}
	raw, err := readBlock(in, maxStatusBlock+1)
	if err != nil {
		return followStatus{}, err
	}
	b, err := decodeBlock(raw)
	if err != nil {
		return followStatus{}, err
	}
	if b.status == nil {
		return followStatus{}, errors.New("the stream does not begin with a status")
	}
	return *b.status, nil
}
