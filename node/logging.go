package node

// Names of log fields. A field has one name everywhere, so that a site's logs
// can be searched. docs/LOGGING.md is the dictionary of all of them; a test
// holds the code of every package to it.
const (
	LogNode    = "node"
	LogPeer    = "peer"
	LogSite    = "site"
	LogPhase   = "phase"
	LogReason  = "reason"
	LogImage   = "image"
	LogError   = "error"
	LogAddress = "address"
	LogEpoch   = "epoch"
)
