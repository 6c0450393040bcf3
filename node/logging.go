package node

// The dictionary of log fields. A field has one name everywhere, so that a
// site's logs can be searched; docs/LOGGING.md is generated from this list.
const (
	LogNode    = "node"    // peer ID of this node
	LogPeer    = "peer"    // peer ID of another node
	LogSite    = "site"    // site ID
	LogPhase   = "phase"   // a Phase
	LogReason  = "reason"  // a sentence for a person
	LogError   = "error"   // an error's text
	LogRole    = "role"    // a role of DESIGN §3
	LogAddress = "address" // a mesh address
	LogIndex   = "index"   // a ledger index
)
