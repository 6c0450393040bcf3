package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/muster-edge/muster/p2p"
)

// ErrNetwork is returned for a node whose state belongs to a mesh of another
// network_id.
var ErrNetwork = errors.New("the state directory belongs to another mesh")

// networkFile holds the network_id of the site that this node belongs to.
const networkFile = "network_id"

// checkNetwork refuses to run a member in a mesh of another network_id: two IDs
// are two meshes, and the member would lead the newcomers of one into the site of
// the other.
func (a *Agent) checkNetwork() error {
	site, err := os.ReadFile(a.path(networkFile))
	switch own := a.opts.Config.P2P.NetworkID; {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read network_id: %w", err)
	case string(site) != own:
		return fmt.Errorf("p2p.network_id is %q, and this node is a member of a site with network_id %q: %w; change it back, or wipe %s to start as a new node", own, site, ErrNetwork, a.opts.StateDir)
	}
	return nil
}

// keepNetwork notes the mesh that this node is a member in.
func (a *Agent) keepNetwork() error {
	if _, err := os.Stat(a.path(networkFile)); err == nil {
		return nil
	}
	if err := p2p.WriteFile(a.path(networkFile), []byte(a.opts.Config.P2P.NetworkID), 0o600); err != nil {
		return fmt.Errorf("keep network_id: %w", err)
	}
	return nil
}
