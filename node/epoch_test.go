package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/roles"
)

// wipeCounter is a Distro of which only Wipe is asked.
type wipeCounter struct {
	k3s.Distro
	wiped int
	err   error
}

func (w *wipeCounter) Wipe(context.Context) (string, error) {
	w.wiped++
	return "/kept", w.err
}

func inEpoch(n int) roles.State {
	return roles.State{Epoch: &roles.Epoch{N: n}, Roles: map[roles.NodeID]roles.Role{"n1": roles.Worker}}
}

func TestDataOfASupersededEpochIsWipedOnce(t *testing.T) {
	path, distro := filepath.Join(t.TempDir(), epochFile), &wipeCounter{}
	leave := func(s roles.State) (string, string, error) {
		return leaveSuperseded(t.Context(), path, s, 0, nil, "n1", distro)
	}

	for _, s := range []roles.State{{}, inEpoch(1), inEpoch(3)} {
		_, _, err := leave(s)
		require.NoError(t, err)
	}
	require.Zero(t, distro.wiped, "there was nothing to wipe")

	require.NoError(t, keepNote(path, epochNote{Epoch: 2}))
	for _, s := range []roles.State{{}, inEpoch(1), inEpoch(2)} {
		_, _, err := leave(s)
		require.NoError(t, err)
	}
	require.Zero(t, distro.wiped, "the data is of this epoch, or the copy of the decisions is behind")

	why, kept, err := leave(inEpoch(3))
	require.NoError(t, err)
	require.Contains(t, why, "epoch 2")
	require.Equal(t, "/kept", kept)
	why, _, err = leave(inEpoch(3))
	require.NoError(t, err)
	require.Empty(t, why)
	require.Equal(t, 1, distro.wiped)
}

func TestAnInterruptedWipeIsDoneAgain(t *testing.T) {
	path, distro := filepath.Join(t.TempDir(), epochFile), &wipeCounter{err: errors.New("power cut")}
	require.NoError(t, keepNote(path, epochNote{Epoch: 1}))
	_, _, err := leaveSuperseded(t.Context(), path, inEpoch(2), 0, nil, "n1", distro)
	require.ErrorIs(t, err, distro.err)

	distro.err = nil
	why, _, err := leaveSuperseded(t.Context(), path, inEpoch(2), 0, nil, "n1", distro)
	require.NoError(t, err)
	require.NotEmpty(t, why)
	require.Equal(t, 2, distro.wiped)
}

func TestADamagedEpochNoteIsNotTakenForNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), epochFile)
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, _, err := leaveSuperseded(t.Context(), path, inEpoch(2), 0, nil, "n1", &wipeCounter{})
	require.Error(t, err)
	require.Error(t, keepNote(path, epochNote{Epoch: 2}))
}
