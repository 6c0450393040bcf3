package ledger

import "github.com/libp2p/go-libp2p/core/peer"

// Enrolment says how often the site's token was replaced. The token itself is
// the secret SecretNetworkToken, written by the same transaction.
type Enrolment struct {
	Epoch uint64 `json:"epoch"`
}

// Revoked is a node that was thrown out for good. Hostname is what it was called,
// by which Kubernetes knows it until Cleared.
type Revoked struct {
	Hostname string `json:"hostname,omitempty"`
	Reason   string `json:"reason,omitempty"`
	// Cleared: the cluster has forgotten it.
	Cleared bool `json:"cleared,omitempty"`
}

// IsRevoked says whether a node was thrown out.
func IsRevoked(v View, id peer.ID) bool {
	_, revoked := v.Get(RevokedKey(id))
	return revoked
}

// EnrolmentEpoch returns how often the site's token was replaced.
func EnrolmentEpoch(v View) uint64 {
	r, _, _ := Read[Enrolment](v, KeyEnrolment) // checked when it was proposed
	return r.Value.Epoch
}

// isGone says whether a node was a member and is none any more.
func isGone(v View, id peer.ID) bool { return IsRemoved(v, id) || IsRevoked(v, id) }
