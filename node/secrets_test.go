package node

import (
	"crypto/rand"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/roles"
)

// A coordinator that cannot read a secret can seal it to nobody else, so the
// secrets of a site that is just being founded are sealed to all its voters.
func TestSecretsAreSealedToWhoeverMayCoordinate(t *testing.T) {
	var ids []peer.ID
	for range 4 {
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		require.NoError(t, err)
		id, err := peer.IDFromPrivateKey(key)
		require.NoError(t, err)
		ids = append(ids, id)
	}
	first, second, third, worker := ids[0], ids[1], ids[2], ids[3]
	voters := []peer.ID{first, second, third}
	member := func(id peer.ID) roles.Member { return roles.Member{ID: roles.NodeID(id.String())} }

	state := roles.State{Members: []roles.Member{member(first), member(worker)}, Roles: map[roles.NodeID]roles.Role{}}
	masters, everybody, err := recipients(state, voters)
	require.NoError(t, err)
	require.Empty(t, masters, "roles come first")
	require.Empty(t, everybody)

	state.Roles[roles.NodeID(first.String())] = roles.MasterInit
	state.Roles[roles.NodeID(worker.String())] = roles.Worker
	masters, everybody, err = recipients(state, voters)
	require.NoError(t, err)
	require.ElementsMatch(t, voters, masters, "the workers do not get the server token, masters to be do")
	require.ElementsMatch(t, ids, everybody)
}
