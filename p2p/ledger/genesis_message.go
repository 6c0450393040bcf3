package ledger

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxGenesisMessage bounds one message on the wire, in bytes: a certificate of
// [MaxFounders] with the largest policy fits.
const maxGenesisMessage = 256 << 10

var errBadGenesisMessage = errors.New("bad genesis message")

type genesisKind string

const (
	// kindAsk: the proposer asks a founder to promise itself to Genesis.
	kindAsk genesisKind = "ask"
	// kindPromised: the sender's promise, told to every founder, so that any of
	// them can finish what the proposer began. Repeated until the outcome is
	// known, which makes it the question for the outcome, too.
	kindPromised genesisKind = "promised"
	// kindRefused: the sender will not promise to Site; Reason is for people.
	// Genesis is the record it is bound to instead, or Certificate the site
	// that it belongs to.
	kindRefused genesisKind = "refused"

	// kindPrepare: the sender wants to decide about Genesis on Ballot.
	kindPrepare genesisKind = "prepare"
	// kindPrepared: the sender will vote on no lower ballot; Accepted is how it
	// voted last, if it did.
	kindPrepared genesisKind = "prepared"
	// kindOutbid: the sender promised Ballot, which is higher, to somebody else.
	kindOutbid genesisKind = "outbid"
	// kindAccept: vote for Accepted, please.
	kindAccept genesisKind = "accept"
	// kindVoted: the sender's vote, durable.
	kindVoted genesisKind = "voted"

	// kindFounded and kindAborted: the outcome, with its proof.
	kindFounded genesisKind = "founded"
	kindAborted genesisKind = "aborted"
)

// genesisMessage is one message of the protocol /muster/genesis/1. Which fields
// are set depends on Kind. Fields of a later release are ignored: what counts
// is signed, and the record itself has a version.
type genesisMessage struct {
	Kind        genesisKind  `json:"kind"`
	Site        string       `json:"site"`
	Genesis     *Genesis     `json:"genesis,omitempty"`
	Promise     *Promise     `json:"promise,omitempty"`
	Ballot      Ballot       `json:"ballot,omitzero"`
	Accepted    *acceptance  `json:"accepted,omitempty"`
	Vote        *Vote        `json:"vote,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Abort       *Abort       `json:"abort,omitempty"`
	Reason      string       `json:"reason,omitempty"`
}

// acceptance is what a master voted for. A vote to commit carries the promises
// that allow it, so that whoever takes over can repeat it.
type acceptance struct {
	Ballot   Ballot    `json:"ballot"`
	Commit   bool      `json:"commit"`
	Promises []Promise `json:"promises,omitempty"`
}

// check refuses a message that lacks what its kind needs, before anything acts
// on it.
func (m genesisMessage) check() error {
	if m.Site == "" || len(m.Site) > 2*siteIDBytes || len(m.Reason) > 1<<10 || len(m.Ballot.By) > 128 {
		return fmt.Errorf("%w: %s: a field is missing or too long", errBadGenesisMessage, m.Kind)
	}
	ok := false
	switch m.Kind {
	case kindAsk, kindPrepare:
		ok = m.Genesis != nil && m.Genesis.Site == m.Site
	case kindAccept:
		ok = m.Genesis != nil && m.Genesis.Site == m.Site && m.Accepted != nil && m.Accepted.Ballot == m.Ballot
	case kindPromised:
		ok = m.Promise != nil && m.Promise.Site == m.Site
	case kindVoted:
		ok = m.Vote != nil && m.Vote.Site == m.Site
	case kindFounded:
		ok = m.Certificate != nil && m.Certificate.Genesis.Site == m.Site
	case kindAborted:
		ok = m.Abort != nil && m.Abort.Genesis.Site == m.Site
	case kindRefused, kindPrepared, kindOutbid:
		ok = true
	default:
		return fmt.Errorf("%w: unknown kind", errBadGenesisMessage)
	}
	if !ok {
		return fmt.Errorf("%w: %s is not complete", errBadGenesisMessage, m.Kind)
	}
	return nil
}

// writeGenesisMessage frames a message: its length (4 bytes, big endian), then
// JSON.
func writeGenesisMessage(w io.Writer, m genesisMessage) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.Kind, err)
	}
	if len(raw) > maxGenesisMessage {
		return fmt.Errorf("encode %s: %w: %d bytes, limit %d", m.Kind, errBadGenesisMessage, len(raw), maxGenesisMessage)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(raw))), raw...))
	return err
}

// readGenesisMessage reads one framed message. It returns io.EOF when the
// stream ends between two.
func readGenesisMessage(r io.Reader) (genesisMessage, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return genesisMessage{}, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxGenesisMessage {
		return genesisMessage{}, fmt.Errorf("%w: %d bytes, limit %d", errBadGenesisMessage, n, maxGenesisMessage)
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r, raw); err != nil {
		return genesisMessage{}, fmt.Errorf("%w: cut short: %v", errBadGenesisMessage, err)
	}
	var m genesisMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return genesisMessage{}, fmt.Errorf("%w: %v", errBadGenesisMessage, err)
	}
	return m, m.check()
}
