package peer

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
)

// edgevpnRange is EdgeVPN's default range.
var edgevpnRange = netip.MustParsePrefix("10.1.0.0/24")

// EdgeVPN is EdgeVPN with its defaults, found by mDNS alone: the LAN of the lab leads nowhere that the DHT could go.
type EdgeVPN struct {
	site
	bin  string
	dhcp bool
}

// NewEdgeVPN returns EdgeVPN, from its binary. With dhcp the nodes agree on addresses (--dhcp), which is what Kairos
// uses; without, every node is given one, which saves the measurement of throughput from waiting. dir is a folder of
// its own, removed by Stop.
func NewEdgeVPN(bin, dir string, dhcp bool) *EdgeVPN {
	return &EdgeVPN{site: site{name: "edgevpn", dir: dir}, bin: bin, dhcp: dhcp}
}

// Start implements Peer.
func (e *EdgeVPN) Start(ctx context.Context, nodes int) error {
	if err := e.open(ctx, nodes); err != nil {
		return err
	}
	token, err := output(exec.CommandContext(ctx, e.bin, "-g", "-b"))
	if err != nil {
		return fmt.Errorf("edgevpn: make token: %w", err)
	}
	for i := 1; i <= nodes; i++ {
		env := []string{
			"EDGEVPNTOKEN=" + strings.TrimSpace(string(token)),
			"EDGEVPNDHT=false",
			"EDGEVPNLOGLEVEL=error",
		}
		if e.dhcp {
			env = append(env, "DHCP=true", "DHCPLEASEDIR="+e.folder(i))
		} else {
			env = append(env, "ADDRESS="+numbered(edgevpnRange, i).String()+"/"+strconv.Itoa(edgevpnRange.Bits()))
		}
		if err := e.run(i, env, e.bin); err != nil {
			return err
		}
	}
	return nil
}

// Join implements Peer.
func (e *EdgeVPN) Join(ctx context.Context) (Joined, error) { return e.join(ctx, edgevpnRange) }
