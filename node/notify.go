package node

import (
	"context"
	"time"
)

// Supervisor is told how the agent does; systemd is one (sd_notify(3)).
type Supervisor struct {
	// Tell sends lines like "READY=1".
	Tell func(state string)
	// Watchdog is how often "WATCHDOG=1" must be heard at least; 0 for never.
	Watchdog time.Duration
}

func (a *Agent) tell(state string) {
	if a.opts.Supervisor.Tell != nil {
		a.opts.Supervisor.Tell(state)
	}
}

// watchdog shows that the agent can still answer: an agent whose locks hang is
// silent, and is started anew.
func (a *Agent) watchdog(ctx context.Context) {
	if a.opts.Supervisor.Watchdog <= 0 {
		return
	}
	a.forwarders.Go(func() {
		// Half of the time is what sd_watchdog_enabled(3) recommends.
		for sleep(ctx, a.opts.Supervisor.Watchdog/2, nil) {
			a.status()
			a.tell("WATCHDOG=1")
		}
	})
}

// spellPhase is what the supervisor shows of a phase.
func spellPhase(p Phase, reason string) string {
	if reason == "" {
		return string(p)
	}
	return string(p) + ": " + oneLine(reason)
}
