package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// feature raises the site's feature level to what every member knows, on the
// coordinator. Until then nobody writes what a member could not read. It is
// never lowered: what was written since stays.
func (m *member) feature(ctx context.Context) ([]string, error) {
	if !m.founded() || !m.ledger.IsCoordinator() {
		return nil, nil
	}
	view, state, err := m.view()
	if err != nil {
		return nil, err
	}
	record, _, err := ledger.Read[ledger.Feature](view, ledger.KeyFeature)
	if err != nil {
		return nil, err
	}
	level, known := commonLevel(state.Members, m.agent.factsOf)
	if !known || level <= record.Value.Level {
		return nil, nil
	}
	record.Value.Level = level
	value, err := record.Encode()
	if err != nil {
		return nil, err
	}
	_, err = m.ledger.Propose(ctx, ledger.Txn{}.If(ledger.KeyFeature, view.IndexOf(ledger.KeyFeature)).Set(ledger.KeyFeature, value))
	if errors.Is(err, ledger.ErrConflict) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("raise the feature level to %d: %w", level, err)
	}
	m.agent.events.add("feature", fmt.Sprintf("feature level %d", level), "every member knows it")
	return nil, nil
}

// commonLevel returns the highest feature level that all members know, or false
// as long as one of them has not been heard.
func commonLevel(members []roles.Member, factsOf func(peer.ID) (Facts, bool)) (level int, known bool) {
	for _, member := range members {
		if member.Removed {
			continue
		}
		id, err := peerOf(member.ID)
		if err != nil {
			return 0, false
		}
		f, heard := factsOf(id)
		if !heard || f.FeatureLevel < 1 {
			return 0, false
		}
		if !known || f.FeatureLevel < level {
			level, known = f.FeatureLevel, true
		}
	}
	return level, known
}
