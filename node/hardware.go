package node

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/muster-edge/muster/p2p"
)

// hardwareHash names a machine to its site without telling its serial number:
// whoever reads the ledger can see that two identities were one machine, and
// nobody outside of the network can try serial numbers against it.
//
// The key is the oldest token's that this node knows, so that a rotation does not
// make another machine of it.
func hardwareHash(networks p2p.Networks, hardware p2p.Hardware) string {
	oldest := append([]p2p.Network{networks.Present}, networks.Former...)[len(networks.Former)]
	key := oldest.Key("hardware")
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(hardware.ID + "\n" + strings.Join(hardware.MACs, "\n")))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
