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
func hardwareHash(network p2p.Network, hardware p2p.Hardware) string {
	key := network.Key("hardware")
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(hardware.ID + "\n" + strings.Join(hardware.MACs, "\n")))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
