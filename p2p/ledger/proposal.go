package ledger

import (
	"encoding/binary"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
)

// proposalContext keeps a signature of a proposal from being used for anything
// else.
const proposalContext = "muster propose 1"

// maxSiteSize is more than any site ID has.
const maxSiteSize = 64

// proposal is a command on its way to the coordinator. The signature covers
// site and generation too, so that it means nothing elsewhere.
type proposal struct {
	Command   []byte `json:"command"`
	Signature []byte `json:"signature"`
}

func signProposal(id *p2p.Identity, site Site, t Txn) (proposal, error) {
	cmd, err := encodeCommand(command{author: id.ID(), txn: t})
	if err != nil {
		return proposal{}, err
	}
	sig, err := id.Sign(proposalContext, proposalMessage(site, cmd))
	if err != nil {
		return proposal{}, err
	}
	return proposal{Command: cmd, Signature: sig}, nil
}

// verify returns the command if its author signed it for this site and
// generation.
func (p proposal) verify(site Site) (command, error) {
	c, err := decodeCommand(p.Command)
	if err != nil {
		return command{}, err
	}
	if err := p2p.Verify(c.author, proposalContext, proposalMessage(site, p.Command), p.Signature); err != nil {
		return command{}, fmt.Errorf("proposal of %s: %w", short(c.author), err)
	}
	return c, nil
}

func proposalMessage(site Site, cmd []byte) []byte {
	b := appendBytes(nil, site.ID)
	b = binary.AppendUvarint(b, site.Generation)
	return append(b, cmd...)
}

// short is a peer ID for people: the end of it, since all begin alike.
func short(id peer.ID) string {
	s := id.String()
	return s[max(0, len(s)-8):]
}
