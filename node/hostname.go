package node

import (
	"cmp"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/roles"
)

// chooseHostname gives the machine a name before anything depends on it: the
// configuration's, else the machine's own, else one made from the identity.
func (a *Agent) chooseHostname() (string, error) {
	if a.opts.Hostname != "" {
		return a.opts.Hostname, nil
	}
	current, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("read hostname: %w", err)
	}
	name := a.opts.Config.Hostname
	if name == "" && !nameless(current) {
		return current, nil
	}
	if name == "" {
		name = p2p.DefaultHostname(a.identity.ID())
	}
	if name == current {
		return name, nil
	}
	// The immutable system forgets it at the next boot, when the agent says it
	// again.
	if err := unix.Sethostname([]byte(name)); err != nil {
		return "", fmt.Errorf("set hostname %q: %w", name, err)
	}
	return name, nil
}

// siteName is what a machine of that name calls itself in the site: one DNS
// label, since a member's record holds nothing else. Machines are called
// "Server1.example.com" too, and must be let in all the same.
func siteName(hostname string, id peer.ID) string {
	return cmp.Or(roles.Label(hostname), p2p.DefaultHostname(id))
}

// nameless are the names of a machine that nobody named: the kernel's, and those
// that images are built with.
func nameless(hostname string) bool {
	switch hostname {
	case "", "(none)", "localhost", "localhost.localdomain", "debian", "kairos", "muster":
		return true
	}
	return false
}
