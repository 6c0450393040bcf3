package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
)

// recoveryContext keeps the signature of a recovery from being used for anything
// else.
const recoveryContext = "muster recovery 1"

// Recovery is the first record of a generation: who minted it, from which copy,
// and who goes on. It is signed, because a node of a lower generation gives way
// to it, votes and cluster data included.
type Recovery struct {
	Version    int    `json:"version"`
	Site       string `json:"site"`
	From       uint64 `json:"from"` // generation whose copy was taken
	Generation uint64 `json:"generation"`
	Index      uint64 `json:"index"` // of that copy
	By         string `json:"by"`    // peer ID of the node that an operator ran it on
	// Kept are the nodes whose Kubernetes server data goes on. Any other node that
	// was a server wipes before it starts Kubernetes again.
	Kept []string `json:"kept,omitempty"`
	// Lost are the masters that were given up.
	Lost      []string `json:"lost,omitempty"`
	Signature []byte   `json:"signature"`
}

// RecoveryKey is where the record of a generation lies.
func RecoveryKey(generation uint64) string {
	return PrefixRecovery + strconv.FormatUint(GenerationNumber(generation), 10)
}

func (r Recovery) message() []byte {
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	fields := []string{r.Site, number(r.From), number(r.Generation), number(r.Index), r.By, fmt.Sprint(len(r.Kept))}
	return signedFields(append(append(fields, r.Kept...), r.Lost...)...)
}

func (r Recovery) verify() error {
	id, err := peer.Decode(r.By)
	if err != nil {
		return fmt.Errorf("recovery as generation %s: %q is not a peer ID", SpellGeneration(r.Generation), r.By)
	}
	if !Supersedes(r.Generation, r.From) {
		return fmt.Errorf("recovery as generation %s does not follow generation %s", SpellGeneration(r.Generation), SpellGeneration(r.From))
	}
	if err := p2p.Verify(id, recoveryContext, r.message(), r.Signature); err != nil {
		return fmt.Errorf("recovery as generation %s by %s: %w", SpellGeneration(r.Generation), short(id), err)
	}
	return nil
}

// Recoveries returns how a site came to its generation, in order. Records of a
// view are checked by whoever adopts it, not again by each reader.
func Recoveries(v View) []Recovery {
	var out []Recovery
	for _, e := range v.List(PrefixRecovery) {
		if r, err := Decode[Recovery](e); err == nil {
			out = append(out, r.Value)
		}
	}
	slices.SortFunc(out, func(a, b Recovery) int {
		switch {
		case Supersedes(a.Generation, b.Generation):
			return 1
		case Supersedes(b.Generation, a.Generation):
			return -1
		}
		return 0
	})
	return out
}

// ErrNotVouched: a copy claims to be of a higher generation, and nobody whom
// this node may believe in that has signed it.
var ErrNotVouched = errors.New("no recovery that this node may believe in")

// CheckSuccession says whether a node of the site whose decisions own are, in
// generation from, gives way to c. Somebody whom own knows as a member has to
// have minted a generation on the way; if it is not a master (all masters may be
// lost, and then a worker's copy is all there is) only while this node knows no
// coordinator: a worker cannot take a living site from its masters.
func CheckSuccession(own View, from Site, coordinated bool, c Copy) error {
	if c.site.ID != from.ID || !Supersedes(c.site.Generation, from.Generation) {
		return fmt.Errorf("adopt %v: it does not follow %v", c.site, from)
	}
	chain := Recoveries(c.state.view())
	if len(chain) == 0 || chain[len(chain)-1].Generation != c.site.Generation {
		return fmt.Errorf("adopt %v: its decisions do not say who recovered it: %w", c.site, ErrNotVouched)
	}
	why := ErrNotVouched
	for i, r := range chain {
		if r.Site != from.ID {
			return fmt.Errorf("adopt %v: it was recovered from site %q", c.site, r.Site)
		}
		if i > 0 && r.From != chain[i-1].Generation {
			return fmt.Errorf("adopt %v: generation %s does not follow %s", c.site, SpellGeneration(r.Generation), SpellGeneration(chain[i-1].Generation))
		}
		if err := r.verify(); err != nil {
			return fmt.Errorf("adopt %v: %w", c.site, err)
		}
		by, _ := peer.Decode(r.By) // verify has
		if why == nil || !Supersedes(r.Generation, from.Generation) {
			continue
		}
		_, revoked := own.Get(RevokedKey(by))
		switch {
		case revoked || !IsMember(own, by):
			why = fmt.Errorf("%s, who recovered it, is no member: %w", short(by), ErrNotVouched)
		case coordinated && !slices.Contains(Masters(own), by):
			why = fmt.Errorf("%s, who recovered it, is no master, and the masters decide: %w", short(by), ErrNotVouched)
		default:
			why = nil
		}
	}
	if why != nil {
		return fmt.Errorf("adopt %v: %w", c.site, why)
	}
	return nil
}

// signRecovery returns the record as it is stored.
func signRecovery(identity *p2p.Identity, r Recovery) (Recovery, []byte, error) {
	r.Version, r.By = recordVersion, identity.ID().String()
	var err error
	if r.Signature, err = identity.Sign(recoveryContext, r.message()); err != nil {
		return r, nil, err
	}
	value, err := json.Marshal(r)
	return r, value, err
}
