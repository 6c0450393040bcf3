package ledger

import (
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Keys of the ledger: a kind, and for kinds of which there are many a slash and
// a name.
const (
	KeyGenesis = "genesis"
	KeyPolicy  = "policy"
	KeyEpoch   = "epoch"   // the cluster epoch of Kubernetes
	KeyCounter = "counter" // of addresses
	KeyFeature = "feature"
	KeyVIP     = "vip" // who holds the virtual address
	// KeyReplacement is the one change of members that is under way, so that there
	// are never two.
	KeyReplacement = "replacement"
	// KeyEnrolment is by which of the site's tokens newcomers are let in.
	KeyEnrolment = "enrolment"

	PrefixMember  = "member/"
	PrefixRole    = "role/"
	PrefixAddress = "address/"
	PrefixName    = "name/"
	PrefixSecret  = "secret/"
	PrefixDNS     = "dns/"
	PrefixRemoved = "removed/" // nodes that are members no more
	PrefixRequest = "request/" // what an operator, or the node itself, asks for a node
	PrefixRevoked = "revoked/"
	// PrefixRecovery: how the site came to its generation, a record each.
	PrefixRecovery = "recovery/"
)

// Names under PrefixSecret.
const (
	SecretServerToken = "server-token" // to masters
	SecretAgentToken  = "agent-token"  // to every member
	SecretKubeconfig  = "kubeconfig"   // the admin's, to masters

	SecretNetworkToken = "network-token" // to every member, once the first was replaced
)

func MemberKey(id peer.ID) string  { return PrefixMember + id.String() }
func RoleKey(id peer.ID) string    { return PrefixRole + id.String() }
func AddressKey(id peer.ID) string { return PrefixAddress + id.String() }
func NameKey(id peer.ID) string    { return PrefixName + id.String() }
func RemovedKey(id peer.ID) string { return PrefixRemoved + id.String() }
func RequestKey(id peer.ID) string { return PrefixRequest + id.String() }
func RevokedKey(id peer.ID) string { return PrefixRevoked + id.String() }
func SecretKey(name string) string { return PrefixSecret + name }
func DNSKey(name string) string    { return PrefixDNS + name }

// KeyID returns the node that a key like "role/<peer ID>" is about.
func KeyID(key string) (peer.ID, error) {
	kind, name, _ := strings.Cut(key, "/")
	id, err := peer.Decode(name)
	if err != nil {
		return "", fmt.Errorf("key %q: %q is not the peer ID of a %s", key, name, kind)
	}
	if id.String() != name {
		// Another spelling (CID) would be a second key for the same node.
		return "", fmt.Errorf("key %q: write the peer ID as %s", key, id)
	}
	return id, nil
}
