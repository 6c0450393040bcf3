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

	Phase  Phase  `json:"phase"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`

	Kubernetes KubernetesFacts `json:"kubernetes"`

	Version string `json:"version"`
	// FeatureLevel is the highest level that the running version knows.
	FeatureLevel int    `json:"feature_level"`
	Slot         string `json:"slot,omitempty"`
	Image        string `json:"image,omitempty"`
}

// VPNFacts say how a node is reached by WireGuard.
type VPNFacts struct {
	PublicKey  string           `json:"public_key,omitempty"`
	Candidates []netip.AddrPort `json:"candidates,omitempty"`
	// Underlay is the address that Kubernetes uses when it stays off the VPN.
	Underlay netip.Addr `json:"underlay,omitzero"`
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
}

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
	return facts.bounded(), nil
}

// maxCandidates bounds the endpoints that a peer may send this node to.
const maxCandidates = 16

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
)

// bounded leaves out what would not fit, and names no network twice.
func (f Facts) bounded() Facts {
	f.LANs = slices.Clone(f.LANs)
	slices.SortFunc(f.LANs, netip.Prefix.Compare)
	f.LANs = slices.Compact(f.LANs)
	f.LANs = f.LANs[:min(len(f.LANs), maxLANs)]
	f.Reason = strings.ToValidUTF8(f.Reason[:min(len(f.Reason), maxReason)], "")
	return f
}

func (f Facts) encode() ([]byte, error) {
	f.LANs = slices.Clone(f.LANs)
	slices.SortFunc(f.LANs, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return json.Marshal(f)
}
