package ledger

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p"
)

// secretRun is a ledger of one secret.
type secretRun struct {
	t     *testing.T
	state *state
	index uint64
}

func (r *secretRun) read() Secret {
	s, err := ReadSecret(r.state.view(), SecretAgentToken)
	require.NoError(r.t, err)
	return s
}

func (r *secretRun) apply(txn Txn, err error) outcome {
	r.t.Helper()
	require.NoError(r.t, err)
	r.index++
	txn.ID = testID(int(r.index))
	require.NoError(r.t, txn.check())
	return r.state.apply(r.index, encoded(r.t, "A", txn)).outcome
}

// spread seals the secret to all, and returns in how many decisions.
func (r *secretRun) spread(secret string, to []peer.ID) (decisions int) {
	r.t.Helper()
	for ; len(r.read().Missing(to)) > 0; decisions++ {
		require.Less(r.t, decisions, 10)
		require.Equal(r.t, outcomeCommitted, r.apply(r.read().Extend([]byte(secret), to)))
	}
	return decisions
}

func TestASecretOfALargeSiteIsSealedInParts(t *testing.T) {
	const nodes = 2*maxRecipients + 20
	var identities []*p2p.Identity
	var all []peer.ID
	for range nodes {
		id, _ := newIdentity(t, "a")
		identities, all = append(identities, id), append(all, id.ID())
	}
	r := &secretRun{t: t, state: newState()}
	require.Equal(t, outcomeCommitted, r.apply(Txn{}.Set(SecretKey(SecretAgentToken+"-of-another"), []byte("{}")), nil))
	require.False(t, r.read().Exists())
	_, err := r.read().Open(identities[0])
	require.ErrorIs(t, err, ErrNotRecipient)

	require.Equal(t, outcomeCommitted, r.apply(r.read().Replace(Txn{}, []byte("old"), all)))
	require.True(t, r.read().Exists())
	require.Equal(t, all[maxRecipients:], r.read().Missing(all))
	require.Equal(t, 2, r.spread("old", all))
	for _, id := range identities {
		secret, err := r.read().Open(id)
		require.NoError(t, err)
		require.Equal(t, "old", string(secret))
	}

	// Whoever is in no part that is written is in none that is left.
	gone := identities[nodes-1]
	rest := all[:nodes-1]
	require.Equal(t, outcomeCommitted, r.apply(r.read().Replace(Txn{}, []byte("new"), rest)))
	_, err = r.read().Open(gone)
	require.ErrorIs(t, err, ErrNotRecipient)
	require.Equal(t, 2, r.spread("new", rest))
	for _, id := range identities[:nodes-1] {
		secret, err := r.read().Open(id)
		require.NoError(t, err)
		require.Equal(t, "new", string(secret))
	}
	_, err = r.read().Open(gone)
	require.ErrorIs(t, err, ErrNotRecipient)

	// Those that left make room, and a part is never one of another secret.
	require.Len(t, r.read().parts, 3)
	newcomer, _ := newIdentity(t, "a")
	require.Equal(t, 1, r.spread("new", append(all[3:nodes-1:nodes-1], newcomer.ID())))
	require.Len(t, r.read().parts, 3)
	before := r.read()
	require.Equal(t, outcomeCommitted, r.apply(r.read().Replace(Txn{}, []byte("newest"), rest)))
	require.Equal(t, outcomeConflict, r.apply(before.Extend([]byte("new"), append(rest, gone.ID()))))

	// Nor does one that is written at the same moment outlive a change.
	before = r.read()
	require.Equal(t, outcomeCommitted, r.apply(before.Extend([]byte("newest"), rest)))
	require.Equal(t, outcomeConflict, r.apply(before.Replace(Txn{}, []byte("last"), rest)))
	require.Equal(t, outcomeCommitted, r.apply(r.read().Replace(Txn{}, []byte("last"), rest)))
	require.Len(t, r.read().parts, 1)
}
