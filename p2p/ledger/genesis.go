package ledger

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
)

// GenesisVersion is the only version of the genesis record that this release
// writes and promises to. The record is hashed and signed, so a founder that
// does not know every field of it must refuse it rather than pass it on.
const GenesisVersion = 1

const (
	// MaxFounders bounds a founding: all of them must promise, so a larger
	// site founds with a part of its nodes and enrols the others.
	MaxFounders = 128
	// MaxGenesisSize bounds the encoded record, policy included.
	MaxGenesisSize = 64 << 10

	siteIDBytes = 8
)

// Contexts keep a signature made for one purpose from being shown for another.
const (
	promiseContext = "muster genesis promise 1"
	voteContext    = "muster genesis vote 1"
)

// ErrBadGenesis is wrapped by every complaint about a genesis record, promise,
// vote or certificate.
var ErrBadGenesis = errors.New("bad genesis record")

// Genesis is the record that a site is made of: the ledger's first committed
// entry. Founders and Masters are peer IDs, sorted; every master is a founder.
type Genesis struct {
	Version  int             `json:"version"`
	Site     string          `json:"site"`
	Founders []string        `json:"founders"`
	Masters  []string        `json:"masters"`
	Policy   json.RawMessage `json:"policy,omitempty"`
	Range    string          `json:"range"`
	Proposer string          `json:"proposer"`
}

// NewSiteID returns a fresh random site ID: 16 hexadecimal characters. Each
// founding attempt has its own, so that an aborted one can be refused for ever.
func NewSiteID() string { return randomHex(siteIDBytes) }

// Validate says what is wrong with the record, wrapping [ErrBadGenesis].
func (g Genesis) Validate() error {
	if g.Version != GenesisVersion {
		return fmt.Errorf("%w: version %d, this node knows %d", ErrBadGenesis, g.Version, GenesisVersion)
	}
	if raw, err := hex.DecodeString(g.Site); err != nil || len(raw) != siteIDBytes {
		return fmt.Errorf("%w: site ID is not %d hexadecimal characters", ErrBadGenesis, 2*siteIDBytes)
	}
	if len(g.Founders) == 0 || len(g.Founders) > MaxFounders {
		return fmt.Errorf("%w: %d founders, want 1 to %d", ErrBadGenesis, len(g.Founders), MaxFounders)
	}
	if err := validatePeers("founders", g.Founders); err != nil {
		return err
	}
	if err := validatePeers("masters", g.Masters); err != nil {
		return err
	}
	if n := len(g.Masters); n%2 == 0 {
		return fmt.Errorf("%w: %d masters, want an odd number", ErrBadGenesis, n)
	}
	for _, m := range g.Masters {
		if !g.Founder(m) {
			return fmt.Errorf("%w: master %s is not a founder", ErrBadGenesis, m)
		}
	}
	if !g.Founder(g.Proposer) {
		return fmt.Errorf("%w: proposer %q is not a founder", ErrBadGenesis, g.Proposer)
	}
	if _, err := netip.ParsePrefix(g.Range); err != nil {
		return fmt.Errorf("%w: address range: %v", ErrBadGenesis, err)
	}
	if len(g.Policy) > 0 && !json.Valid(g.Policy) {
		return fmt.Errorf("%w: policy is not JSON", ErrBadGenesis)
	}
	if raw, err := json.Marshal(g); err != nil || len(raw) > MaxGenesisSize {
		return fmt.Errorf("%w: longer than %d bytes", ErrBadGenesis, MaxGenesisSize)
	}
	return nil
}

func validatePeers(what string, ids []string) error {
	for i, id := range ids {
		if _, err := peer.Decode(id); err != nil {
			return fmt.Errorf("%w: %s: %q is not a peer ID", ErrBadGenesis, what, id)
		}
		if i > 0 && ids[i-1] >= id {
			return fmt.Errorf("%w: %s are not sorted, or name one twice", ErrBadGenesis, what)
		}
	}
	return nil
}

// Digest identifies the record: SHA-256 of its JSON with the fields in the
// order of [Genesis] and no spaces. It is what promises and votes sign.
func (g Genesis) Digest() Digest {
	raw, err := json.Marshal(g)
	if err != nil {
		// Only a Policy that is not JSON comes here; Validate refuses it.
		return Digest{}
	}
	return sha256.Sum256(raw)
}

// Digest is the SHA-256 of a genesis record; in JSON it is hexadecimal.
type Digest [sha256.Size]byte

// String returns the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Digest) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(d) {
		return fmt.Errorf("%w: digest of %d characters, want %d", ErrBadGenesis, len(text), hex.EncodedLen(len(d)))
	}
	if _, err := hex.Decode(d[:], text); err != nil {
		return fmt.Errorf("%w: digest: %v", ErrBadGenesis, err)
	}
	return nil
}

// Founder says whether the node with this peer ID is one of the founders.
func (g Genesis) Founder(id string) bool {
	_, ok := slices.BinarySearch(g.Founders, id)
	return ok
}

// Master says whether the node with this peer ID is one of the founding masters.
func (g Genesis) Master(id string) bool {
	_, ok := slices.BinarySearch(g.Masters, id)
	return ok
}

// Quorum is how many of the founding masters make a majority.
func (g Genesis) Quorum() int { return len(g.Masters)/2 + 1 }

// Promise is one founder's word that it belongs to this record and to no other
// until the record is aborted. Incarnation names the storage that its Raft
// would use: a founder that lost its disk is another server (history S5).
type Promise struct {
	Site        string `json:"site"`
	Record      Digest `json:"record"`
	Founder     string `json:"founder"`
	Incarnation string `json:"incarnation"`
	Signature   []byte `json:"signature"`
}

func (p Promise) message() []byte {
	return signedFields(p.Site, string(p.Record[:]), p.Founder, p.Incarnation)
}

// Vote is one founding master's durable choice about a record on which all
// promises are known (Commit), or that has to be given up (not Commit). A
// majority of equal votes on one ballot is final, whoever comes back later.
type Vote struct {
	Site      string `json:"site"`
	Record    Digest `json:"record"`
	Master    string `json:"master"`
	Ballot    Ballot `json:"ballot"`
	Commit    bool   `json:"commit"`
	Signature []byte `json:"signature"`
}

func (v Vote) message() []byte {
	return signedFields(v.Site, string(v.Record[:]), v.Master, v.Ballot.String(), fmt.Sprint(v.Commit))
}

// Certificate proves that a site was founded: every founder's promise, and the
// votes of a majority of the masters that the record stands. From it every
// founder derives the same Raft configuration. Promises are sorted by founder,
// votes by master.
type Certificate struct {
	Genesis  Genesis   `json:"genesis"`
	Promises []Promise `json:"promises"`
	Votes    []Vote    `json:"votes"`
}

// Verify checks everything that the certificate claims, signatures included.
// Errors wrap [ErrBadGenesis].
func (c Certificate) Verify() error { return c.verify(p2p.Verify) }

// Incarnation returns the storage incarnation that this founder promised with,
// or "" for a node that is not a founder.
func (c Certificate) Incarnation(founder string) string {
	for _, p := range c.Promises {
		if p.Founder == founder {
			return p.Incarnation
		}
	}
	return ""
}

// Abort proves that a founding attempt was given up by a majority of its
// masters and can never become a site. It frees everybody who promised.
type Abort struct {
	Genesis Genesis `json:"genesis"`
	Votes   []Vote  `json:"votes"`
}

// Verify checks everything that the abort claims, signatures included. Errors
// wrap [ErrBadGenesis].
func (a Abort) Verify() error { return a.verify(p2p.Verify) }

// verifier is [p2p.Verify]; simulations replace it to run thousands of sites.
type verifier func(id peer.ID, context string, msg, sig []byte) error

func (c Certificate) verify(check verifier) error {
	if err := c.verifyPromises(check); err != nil {
		return err
	}
	return verifyVotes(c.Genesis, c.Votes, true, check)
}

func (c Certificate) verifyPromises(check verifier) error {
	if err := c.Genesis.Validate(); err != nil {
		return err
	}
	if len(c.Promises) != len(c.Genesis.Founders) {
		return fmt.Errorf("%w: %d promises of %d founders", ErrBadGenesis, len(c.Promises), len(c.Genesis.Founders))
	}
	for i, p := range c.Promises {
		if p.Founder != c.Genesis.Founders[i] {
			return fmt.Errorf("%w: promise %d is not the one of founder %s", ErrBadGenesis, i, c.Genesis.Founders[i])
		}
		if err := verifyPromise(c.Genesis, p, check); err != nil {
			return err
		}
	}
	return nil
}

func verifyPromise(g Genesis, p Promise, check verifier) error {
	switch {
	case !g.Founder(p.Founder):
		return fmt.Errorf("%w: promise of %q, who is not a founder", ErrBadGenesis, p.Founder)
	case p.Site != g.Site || p.Record != g.Digest():
		return fmt.Errorf("%w: promise of %s is for another record", ErrBadGenesis, p.Founder)
	case !validIncarnation(p.Incarnation):
		return fmt.Errorf("%w: promise of %s: bad storage incarnation", ErrBadGenesis, p.Founder)
	}
	if err := verifySigned(p.Founder, promiseContext, p.message(), p.Signature, check); err != nil {
		return fmt.Errorf("%w: promise of %s: %v", ErrBadGenesis, p.Founder, err)
	}
	return nil
}

func (a Abort) verify(check verifier) error {
	if err := a.Genesis.Validate(); err != nil {
		return err
	}
	return verifyVotes(a.Genesis, a.Votes, false, check)
}

// verifyVotes checks that a majority of the masters voted the same way on the
// same ballot.
func verifyVotes(g Genesis, votes []Vote, commit bool, check verifier) error {
	if len(votes) < g.Quorum() || len(votes) > len(g.Masters) {
		return fmt.Errorf("%w: %d votes of %d masters, want at least %d", ErrBadGenesis, len(votes), len(g.Masters), g.Quorum())
	}
	for i, v := range votes {
		if i > 0 && votes[i-1].Master >= v.Master {
			return fmt.Errorf("%w: votes are not sorted, or name a master twice", ErrBadGenesis)
		}
		if v.Commit != commit || v.Ballot != votes[0].Ballot {
			return fmt.Errorf("%w: vote of %s is for something else", ErrBadGenesis, v.Master)
		}
		if err := verifyVote(g, v, check); err != nil {
			return err
		}
	}
	return nil
}

func verifyVote(g Genesis, v Vote, check verifier) error {
	if !g.Master(v.Master) {
		return fmt.Errorf("%w: vote of %q, who is not a master", ErrBadGenesis, v.Master)
	}
	if v.Site != g.Site || v.Record != g.Digest() {
		return fmt.Errorf("%w: vote of %s is for another record", ErrBadGenesis, v.Master)
	}
	if err := verifySigned(v.Master, voteContext, v.message(), v.Signature, check); err != nil {
		return fmt.Errorf("%w: vote of %s: %v", ErrBadGenesis, v.Master, err)
	}
	return nil
}

func verifySigned(id, context string, msg, sig []byte, check verifier) error {
	pid, err := peer.Decode(id)
	if err != nil {
		return err
	}
	return check(pid, context, msg, sig)
}

// Ballot orders attempts to decide about one record. The zero ballot belongs
// to the proposer alone, which may therefore skip asking for it.
type Ballot struct {
	Round uint64 `json:"round"`
	By    string `json:"by,omitempty"` // peer ID, so that no two nodes share a ballot
}

// Less orders ballots: by round, then by peer ID.
func (b Ballot) Less(o Ballot) bool {
	if b.Round != o.Round {
		return b.Round < o.Round
	}
	return b.By < o.By
}

// String is for transcripts and logs.
func (b Ballot) String() string {
	if b.Round == 0 {
		return "0"
	}
	return fmt.Sprintf("%d/%s", b.Round, b.By)
}

// signedFields joins fields with their lengths, so that no two different
// tuples give the same bytes.
func signedFields(fields ...string) []byte {
	var out []byte
	for _, f := range fields {
		out = append(out, byte(len(f)>>24), byte(len(f)>>16), byte(len(f)>>8), byte(len(f)))
		out = append(out, f...)
	}
	return out
}

func randomHex(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails since Go 1.24: it crashes the program instead
	return hex.EncodeToString(raw)
}
