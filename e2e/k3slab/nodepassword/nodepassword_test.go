package nodepassword_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/k3slab/nodepassword"
)

type memory map[string]string

func (m memory) Hash(_ context.Context, node string) (string, error) {
	if hash, ok := m[node]; ok {
		return hash, nil
	}
	return "", nodepassword.ErrUnknown
}

func (m memory) Record(_ context.Context, node, hash string) error {
	if _, ok := m[node]; ok {
		return errors.New("already exists")
	}
	m[node] = hash
	return nil
}

func TestTheFirstNodeOfANameKeepsIt(t *testing.T) {
	store := memory{}
	require.NoError(t, nodepassword.Check(t.Context(), store, "n1", "secret"))
	require.NoError(t, nodepassword.Check(t.Context(), store, "n1", "secret"))
	require.ErrorIs(t, nodepassword.Check(t.Context(), store, "n1", "other"), nodepassword.ErrRejected)
	require.NoError(t, nodepassword.Check(t.Context(), store, "n2", "other"))
	require.NotContains(t, store["n1"], "secret")

	delete(store, "n1")
	require.NoError(t, nodepassword.Check(t.Context(), store, "n1", "other"), "a deleted node frees its name")
}

type broken struct{ memory }

func (broken) Hash(context.Context, string) (string, error) { return "", errors.New("no quorum") }

func TestAStoreThatFailsAdmitsNobody(t *testing.T) {
	err := nodepassword.Check(t.Context(), broken{}, "n1", "secret")
	require.ErrorContains(t, err, "no quorum")
	require.NotErrorIs(t, err, nodepassword.ErrRejected)
}

func TestANodeKeepsItsPassword(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node", "password")
	first, err := nodepassword.Ensure(path)
	require.NoError(t, err)
	require.Len(t, first, 32)
	again, err := nodepassword.Ensure(path)
	require.NoError(t, err)
	require.Equal(t, first, again)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}
