package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"
)

// The follower stream. The client sends one followRequest; the server answers
// with blocks: a kind, and what that kind says. It begins with a status, sends
// what the client's copy lacks, and then whatever is committed, at once. In
// silence it sends a status every Keepalive.
const (
	blockStatus   = 1 // JSON followStatus
	blockCommands = 2 // commands, each with its place in history
	blockState    = 3 // a snapshot of the whole state
)

type followRequest struct {
	Version int    `json:"version"`
	Site    Site   `json:"site"`
	Index   uint64 `json:"index"` // of the client's copy
}

// followStatus is what a server knows besides decisions.
type followStatus struct {
	Version     int    `json:"version"`
	Site        Site   `json:"site"`
	Refused     string `json:"refused,omitempty"` // why nothing will follow
	Index       uint64 `json:"index"`
	Coordinator string `json:"coordinator,omitempty"`
	// Voter: the server hears of every decision. One that is a follower itself
	// sends what it has and ends the stream: two followers that followed each
	// other would both believe to be up to date.
	Voter bool `json:"voter"`
}

const (
	maxStatusBlock = 64 << 10
	// maxBlock holds the largest block, a snapshot, and its kind.
	maxBlock = max(maxSnapshotSize, maxStatusBlock) + 1
	// commandsPerBlock bounds one block of commands, in bytes before the last.
	commandsPerBlock = 256 << 10
)

// block is a decoded part of the stream: one of the three is set.
type block struct {
	status   *followStatus
	commands []committed
	state    []byte
}

func encodeStatus(s followStatus) ([]byte, error) {
	b, err := json.Marshal(s)
	return append([]byte{blockStatus}, b...), err
}

func encodeCommands(batch []committed) []byte {
	b := []byte{blockCommands}
	for _, c := range batch {
		b = appendCommitted(b, c)
	}
	return b
}

func decodeBlock(b []byte) (block, error) {
	if len(b) == 0 {
		return block{}, errShort
	}
	kind, body := b[0], b[1:]
	switch kind {
	case blockStatus:
		var s followStatus
		if len(body) > maxStatusBlock {
			return block{}, fmt.Errorf("status of %d bytes, more than %d", len(body), maxStatusBlock)
		}
		if err := json.Unmarshal(body, &s); err != nil {
			return block{}, err
		}
		return block{status: &s}, nil
	case blockCommands:
		r := &reader{rest: body}
		var batch []committed
		for len(r.rest) > 0 {
			batch = append(batch, readCommitted(r))
		}
		if r.err != nil {
			return block{}, r.err
		}
		if len(batch) == 0 {
			return block{}, errors.New("a block of no commands")
		}
		return block{commands: batch}, nil
	case blockState:
		return block{state: body}, nil
	}
	return block{}, fmt.Errorf("unknown kind of block %d", kind)
}

// status returns what this node tells its followers.
func (l *Ledger) followStatus() followStatus {
	s := followStatus{Version: 1, Site: l.site, Index: l.Index(), Voter: l.voting() != nil}
	if c, ok := l.Coordinator(); ok {
		s.Coordinator = c.String()
	}
	return s
}

// following returns whom a node's copy is fed by: on a voter the coordinator
// alone, since only it knows first what is committed; nil if this node is it.
// A voter that hears no coordinator for long may have lost its seat while it was
// away, which nobody tells it through Raft: it asks like a follower (S12).
func (l *Ledger) following() []peer.ID {
	v := l.voting()
	if v == nil {
		return l.members()
	}
	c, ok := v.coordinator()
	switch {
	case ok && c == l.cfg.Identity.ID():
		return nil
	case ok:
		return []peer.ID{c}
	case v.forlorn():
		return l.members()
	}
	return nil
}

// checkFollow says why a request is refused.
func (l *Ledger) checkFollow(ctx context.Context, req followRequest) error {
	switch {
	case ctx.Err() != nil:
		return ErrClosed
	case req.Version != 1:
		return fmt.Errorf("unknown version %d of the follower stream", req.Version)
	case req.Site.ID != l.site.ID:
		return fmt.Errorf("this is %v, not %v", l.site, req.Site)
	case req.Site.Generation != l.site.Generation:
		return fmt.Errorf("this is generation %s of the site, not %s", SpellGeneration(l.site.Generation), SpellGeneration(req.Site.Generation))
	}
	return nil
}
