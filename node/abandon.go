package node

import (
	"fmt"
	"io"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p/ledger"
)

// AbandonRequest asks to leave a founding that can neither be finished nor given
// up.
type AbandonRequest struct {
	// Yes does it; else only the plan is made.
	Yes bool `json:"yes"`
	// Site is the attempt that the operator means; empty takes the one that there is.
	Site string `json:"site,omitempty"`
}

// AbandonPlan is what would be, or was, left.
type AbandonPlan struct {
	ledger.Abandonment
	Risk string `json:"risk"`
	Done bool   `json:"done"`
}

// abandonSite takes this node out of a founding whose masters are gone.
func (a *Agent) abandonSite(ask AbandonRequest) (AbandonPlan, error) {
	founding := a.currentFounding()
	a.mu.Lock()
	member := a.member != nil
	a.mu.Unlock()
	if member {
		return AbandonPlan{}, fmt.Errorf("%w: this node is a member of a site; `muster reset` takes it out", ErrRefused)
	}
	if founding == nil {
		return AbandonPlan{}, fmt.Errorf("%w: %w", ErrRefused, ledger.ErrNothingPromised)
	}
	b, err := founding.Blocked()
	if err != nil {
		return AbandonPlan{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	for _, p := range a.host.Peers() {
		if p.Greeting.Site == b.Site {
			return AbandonPlan{}, fmt.Errorf("%w: site %s exists, %s is in it: this node joins as soon as it hears how it was founded", ErrRefused, b.Site, a.nameOf(p.ID))
		}
	}
	named := func(ids []string) []string {
		out := make([]string, len(ids))
		for i, text := range ids {
			out[i] = text
			if id, err := peer.Decode(text); err == nil {
				out[i] = a.nameOf(id)
			}
		}
		return out
	}
	away := enumerate(named(b.Away))
	p := AbandonPlan{Abandonment: b, Risk: fmt.Sprintf("%s may have founded site %s already, with this node's promise, or may still do so when it returns. "+
		"Then there are two sites with one token: both say SiteConflict, and one of them has to be ended by hand. Abandon it only if %s never returns, or is wiped before it does", away, b.Site, away)}
	p.Founders, p.Masters, p.Away, p.Proposer = named(b.Founders), named(b.Masters), named(b.Away), named([]string{b.Proposer})[0]
	if !ask.Yes {
		return p, nil
	}
	if ask.Site != "" && ask.Site != b.Site {
		return p, fmt.Errorf("%w: this node is bound to site %s by now, not to %s", ErrRefused, b.Site, ask.Site)
	}
	if err := founding.Abandon(b.Site); err != nil {
		return p, fmt.Errorf("abandon site %s: %w", b.Site, err)
	}
	p.Done = true
	a.log.Warn("a founding was abandoned", LogSite, b.Site, LogReason, "an operator ran `muster site abandon` here")
	a.events.add("founding", "abandoned site "+b.Site, "without "+away)
	a.changed.Notify()
	return p, nil
}

// WriteAbandon writes it for a person.
func WriteAbandon(w io.Writer, p AbandonPlan) error {
	text := fmt.Sprintf("This node has promised itself to site %s, proposed by %s.\nFounders: %s\nMasters:  %s\nAway:     %s\n\n%s.\n\n",
		p.Site, p.Proposer, strings.Join(p.Founders, ", "), strings.Join(p.Masters, ", "), strings.Join(p.Away, ", "), p.Risk)
	if p.Done {
		text += "Done: this node refuses that founding for good, and searches anew. Do the same on the other founders that are left."
	} else {
		text += "Nothing was changed. Add --yes to do this."
	}
	for _, line := range strings.Split(text, "\n") {
		if _, err := fmt.Fprintln(w, oneLine(line)); err != nil {
			return err
		}
	}
	return nil
}
