package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// secretBytes is the length of the tokens that we choose for Kubernetes.
const secretBytes = 32

// secrets keeps the site's secrets sealed to exactly those who need them: the
// server token to the masters, the different agent token to every node. They
// are chosen by the coordinator beforehand, so that nothing has to be read from
// a node that may be dead (history S4).
func (m *member) secrets(ctx context.Context) ([]string, error) {
	if !m.ledger.IsCoordinator() {
		return nil, nil
	}
	view, state, err := m.view()
	if err != nil {
		return nil, err
	}
	if view.IndexOf(ledger.SecretKey(ledger.SecretNetworkToken)) > 0 {
		if err := m.keepSealed(ctx, view, ledger.SecretNetworkToken, tokenRecipients(view)); err != nil {
			return nil, err
		}
	}
	if !state.Policy.Kubernetes {
		return nil, nil
	}
	masters, everybody, err := recipients(state, m.ledger.Status().Voters)
	if err != nil || len(masters) == 0 {
		return nil, err
	}
	return nil, errors.Join(
		m.keepSealed(ctx, view, ledger.SecretServerToken, masters),
		m.keepSealed(ctx, view, ledger.SecretAgentToken, everybody),
	)
}

// recipients returns who is to read the server token, and who the agent token,
// masters first: where not all fit into one decision they read it before others.
// It returns nobody before the first master has its role. The voters are among both even
// while they have no role yet: whoever coordinates next must be able to read a
// secret, or it could not seal it anew to anybody.
func recipients(state roles.State, voters []peer.ID) (masters, everybody []peer.ID, err error) {
	if masters, err = mastersOf(state); err != nil || len(masters) == 0 {
		return nil, nil, err
	}
	everybody = slices.Clone(masters)
	removed := map[peer.ID]bool{}
	for _, member := range state.Members {
		id, err := peerOf(member.ID)
		if err != nil {
			return nil, nil, err
		}
		if removed[id] = member.Removed; !member.Removed && !slices.Contains(everybody, id) {
			everybody = append(everybody, id)
		}
	}
	for _, voter := range voters {
		// One that lost its place may keep its vote for a moment.
		if role := state.Roles[nodeID(voter)]; removed[voter] || role != roles.None && !role.IsMaster() {
			continue
		}
		if !slices.Contains(masters, voter) {
			masters = append(masters, voter)
		}
		if !slices.Contains(everybody, voter) {
			everybody = append(everybody, voter)
		}
	}
	return masters, everybody, nil
}

// keepSealed makes the secret if there is none and seals it anew when somebody
// who needs it cannot read it. To take it away from somebody it has to be
// changed, not sealed anew: who read it once knows it.
func (m *member) keepSealed(ctx context.Context, view ledger.View, name string, to []peer.ID) error {
	secret, err := ledger.ReadSecret(view, name)
	if err != nil {
		return err
	}
	if !secret.Exists() {
		return m.replaceSecret(ctx, secret, newSecret(), to)
	}
	if len(secret.Missing(to)) == 0 {
		return nil
	}
	text, err := secret.Open(m.agent.identity)
	if err != nil {
		return fmt.Errorf("seal %s anew: %w", name, err)
	}
	txn, err := secret.Extend(text, to)
	if err != nil {
		return err
	}
	return m.proposeSecret(ctx, txn)
}

func (m *member) replaceSecret(ctx context.Context, secret ledger.Secret, text []byte, to []peer.ID) error {
	txn, err := secret.Replace(ledger.Txn{}, text, to)
	if err != nil {
		return err
	}
	return m.proposeSecret(ctx, txn)
}

// newSecret returns a token for Kubernetes.
func newSecret() []byte {
	raw := make([]byte, secretBytes)
	_, _ = rand.Read(raw) // never fails (crypto/rand since Go 1.24)
	return []byte(hex.EncodeToString(raw))
}

func (m *member) proposeSecret(ctx context.Context, txn ledger.Txn) error {
	_, err := m.ledger.Propose(ctx, txn)
	if errors.Is(err, ledger.ErrConflict) {
		return nil // another coordinator was faster, and its secret counts
	}
	return err
}

// secret opens one of the site's secrets; it is empty while there is none for
// this node.
func (m *member) secret(view ledger.View, name string) (string, error) {
	secret, err := ledger.ReadSecret(view, name)
	if err != nil || len(secret.Missing([]peer.ID{m.agent.identity.ID()})) > 0 {
		return "", err
	}
	text, err := secret.Open(m.agent.identity)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", name, err)
	}
	return string(text), nil
}

// mastersOf returns the members that hold a master role.
func mastersOf(state roles.State) ([]peer.ID, error) {
	var all []peer.ID
	for _, member := range state.Members {
		if !state.Roles[member.ID].IsMaster() {
			continue
		}
		id, err := peerOf(member.ID)
		if err != nil {
			return nil, err
		}
		all = append(all, id)
	}
	return all, nil
}
