package node

import (
	"context"
	"fmt"

	"github.com/muster-edge/muster/p2p/ledger"
)

// withstand keeps a node up whose votes, promises or log are damaged. It guesses
// nothing and overwrites nothing, leaves what runs alone, takes no part in the
// site, and says why, until ctx ends: what was mended counts from the agent's next
// start.
func (a *Agent) withstand(ctx context.Context, damage *ledger.CorruptError) {
	a.noteDamage(damage, fmt.Sprintf("this node takes no part in its site, since what it promised or voted may be lost; what runs here goes on. "+
		"If the disk is sound, stop the agent, wipe the state directory %s, and it joins as a new node; if it was a master, `muster node replace` on another one gives its place away", a.opts.StateDir))
	a.enter(PhaseBlocked, a.damaged())
	<-ctx.Done()
}

// noteDamage reports a damaged file, and what comes of it, once.
func (a *Agent) noteDamage(damage *ledger.CorruptError, means string) {
	sentence := damage.Error() + "; " + means
	a.mu.Lock()
	known := a.damage == sentence
	a.damage = sentence
	a.mu.Unlock()
	if known {
		return
	}
	a.log.Error("damaged file", LogError, damage)
	a.events.add("damaged", damage.File, damage.Reason)
	a.changed.Notify()
}

// damaged is the sentence about a file that was found damaged, "" without one.
func (a *Agent) damaged() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.damage
}
