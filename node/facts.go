package node

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/roles"
)

// Facts is what a node says about itself: it alone writes it, gossip spreads
// it. Whoever reads a newer version's facts ignores what it does not know; the
// bytes travel on unchanged.
type Facts struct {
	Hostname   string       `json:"hostname"`
	StaticRole roles.Role   `json:"static_role,omitempty"`
	JoinOnly   bool         `json:"join_only,omitempty"`
	Policy     roles.Policy `json:"policy"`
	// LANs are the networks that this node's own links are on.
	LANs []netip.Prefix `json:"lans,omitempty"`

	VPN VPNFacts `json:"vpn"`

	// Conflict says that somebody else publishes facts under this node's key. What
	// mDNS sees of it does not count: whoever has the token can feign that.
	Conflict bool `json:"conflict,omitempty"`

	Phase  Phase  `json:"phase"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`

	Kubernetes KubernetesFacts `json:"kubernetes"`
	// VIP says that this node has a link for the site's virtual address.
	VIP bool `json:"vip,omitempty"`

	// Ledger is what this node has of the decisions, Address what they gave it.
	Ledger  LedgerFacts `json:"ledger,omitzero"`
	Address netip.Addr  `json:"address,omitzero"`

	Version string `json:"version"`
	// FeatureLevel is the highest level that the running version knows, and the one
	// in the other slot too: the node may fall back to it.
	FeatureLevel int `json:"feature_level"`
	// Slot, Image ("sha256:…") and ImageVersion are what the node was started from;
	// empty where it is not from a slot.
	Slot         string `json:"slot,omitempty"`
	Image        string `json:"image,omitempty"`
	ImageVersion string `json:"image_version,omitempty"`
	// Verdict is what the node thinks of that image, Passive what the other slot holds.
	Verdict Verdict   `json:"verdict,omitempty"`
	Passive SlotFacts `json:"passive,omitzero"`
}

// SlotFacts are what a slot holds that does not run.
type SlotFacts struct {
	Image        string `json:"image,omitempty"`
	Version      string `json:"version,omitempty"`
	FeatureLevel int    `json:"feature_level,omitempty"`
}

// VPNFacts say how a node is reached by WireGuard.
type VPNFacts struct {
	PublicKey  string           `json:"public_key,omitempty"`
	Candidates []netip.AddrPort `json:"candidates,omitempty"`
	// Observed are endpoints that routers made of it, as peers see them.
	Observed []netip.AddrPort `json:"observed,omitempty"`
	// Underlay is the address that Kubernetes uses when it stays off the VPN.
	Underlay netip.Addr `json:"underlay,omitzero"`
}

// LedgerFacts say what a node has of the site's decisions, for a recovery that
// cannot reach it.
type LedgerFacts struct {
	Generation uint64 `json:"generation,omitempty"`
	// Index is told only while nothing can be decided: then it stands still, and
	// telling it costs one message.
	Index uint64 `json:"index,omitempty"`
}

// KubernetesFacts say what a node sees of Kubernetes in its own role.
type KubernetesFacts struct {
	Version string `json:"version,omitempty"`
	// Serving is set on a master whose API server answers /readyz.
	Serving bool `json:"serving,omitempty"`
	// NodeReady is the Node object's Ready condition.
	NodeReady bool `json:"node_ready,omitempty"`
	// CAHash is the SHA-256 of the cluster CA that the node trusts, in hex.
	CAHash string `json:"ca_hash,omitempty"`
	// Stopped is set while K3s does not run.
	Stopped bool `json:"stopped,omitempty"`
	// Tenure is the one that the node's Kubernetes data is of, or that it is wiped
	// for (roles.Tenure).
	Tenure int `json:"tenure,omitempty"`
	// TokenEpoch is the enrolment epoch of the agent token that a master's K3s was
	// started with.
	TokenEpoch uint64 `json:"token_epoch,omitempty"`
	// Volumes is set while pods keep data on the node's disk.
	Volumes bool `json:"volumes,omitempty"`
	// Etcd is what a master's own etcd says of the members, itself included.
	Etcd []EtcdFacts `json:"etcd,omitempty"`
}

// EtcdFacts say what a master's etcd sees of one member. While it answers nothing
// they are those of the last time that it did, with nobody reachable.
type EtcdFacts struct {
	// ID in hexadecimal, and the host of its peer URL.
	ID   string `json:"id"`
	Host string `json:"host"`
	// Learner: it is a member that does not vote yet.
	Learner bool `json:"learner,omitempty"`
	// Reachable: it answers, and knows a leader.
	Reachable bool `json:"reachable,omitempty"`
}

// maxEtcdFacts is more than the members that a site of five masters ever has.
const maxEtcdFacts = 12

// decodeFacts reads a gossiped record. A body that does not decode is its
// author's fault and is treated as no facts at all.
func decodeFacts(f p2p.Fact) (Facts, error) {
	var facts Facts
	if err := json.Unmarshal(f.Body, &facts); err != nil {
		return Facts{}, fmt.Errorf("read facts of %s: %w", f.ID, err)
	}
	if len(facts.Hostname) > maxHostname {
		return Facts{}, fmt.Errorf("read facts of %s: a hostname of %d bytes, at most %d", f.ID, len(facts.Hostname), maxHostname)
	}
	if len(facts.VPN.Candidates) > maxCandidates {
		facts.VPN.Candidates = facts.VPN.Candidates[:maxCandidates]
	}
	facts.VPN.Observed = facts.VPN.Observed[:min(len(facts.VPN.Observed), maxObserved)]
	return facts.bounded(), nil
}

// maxCandidates bounds the endpoints that a peer may send this node to.
const maxCandidates = 16

// maxObserved is how many routers a node may be behind at once.
const maxObserved = 4

// publicKey returns the WireGuard key, or false when there is none or it is not
// a key.
func (v VPNFacts) publicKey() (wgtypes.Key, bool) {
	key, err := wgtypes.ParseKey(v.PublicKey)
	return key, err == nil && key != wgtypes.Key{}
}

// Facts have room for this much: a node with more networks, or with an error of
// several pages, must not fall silent because its facts are too long.
const (
	maxHostname = 253 // bytes, DNS's own limit
	maxLANs     = 64
	maxReason   = 512 // bytes
	maxImage    = 128 // bytes, of versions and digests
)

// bounded leaves out what would not fit, and names no network twice.
func (f Facts) bounded() Facts {
	f.LANs = slices.Clone(f.LANs)
	slices.SortFunc(f.LANs, netip.Prefix.Compare)
	f.LANs = slices.Compact(f.LANs)
	f.LANs = f.LANs[:min(len(f.LANs), maxLANs)]
	cut := func(s *string, limit int) { *s = strings.ToValidUTF8((*s)[:min(len(*s), limit)], "") }
	cut(&f.Reason, maxReason)
	f.Kubernetes.Etcd = slices.Clone(f.Kubernetes.Etcd[:min(len(f.Kubernetes.Etcd), maxEtcdFacts)])
	for i := range f.Kubernetes.Etcd {
		cut(&f.Kubernetes.Etcd[i].ID, 16)
		cut(&f.Kubernetes.Etcd[i].Host, maxHostname)
	}
	for _, s := range []*string{&f.Slot, &f.Image, &f.ImageVersion, &f.Passive.Image, &f.Passive.Version} {
		cut(s, maxImage)
	}
	return f
}

func (f Facts) encode() ([]byte, error) {
	f.LANs = slices.Clone(f.LANs)
	slices.SortFunc(f.LANs, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return json.Marshal(f)
}
