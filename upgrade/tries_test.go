package upgrade

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/upgrade/grub"
)

func TestTheTriesOfAnImageAreSetAndNothingElseChanges(t *testing.T) {
	m := &Machine{OEM: t.TempDir(), Run: t.TempDir()}
	require.NoError(t, m.SetTries(4), "there is no environment to set them in")
	before := grub.Env{MaxTries: 2, ExtraCmdline: "quiet"}
	require.NoError(t, grub.CreateEnv(m.envPath(), before))
	require.NoError(t, m.SetTries(4))
	after, err := grub.ReadEnv(m.envPath())
	require.NoError(t, err)
	before.MaxTries = 4
	require.Equal(t, before, after)
	require.ErrorIs(t, m.SetTries(10), grub.ErrEnvValue)
	info, err := os.Stat(m.envPath())
	require.NoError(t, err)
	require.NoError(t, m.SetTries(4))
	again, err := os.Stat(m.envPath())
	require.NoError(t, err)
	require.Equal(t, info.ModTime(), again.ModTime(), "nothing is written that is there")
}

func TestAnImageThatDoesNotSayWhatItKnowsIsOfNoFeatureLevel(t *testing.T) {
	for text, want := range map[string]int{"3\n": 3, "1": 1, "": 0, "-1": 0, "all of them": 0} {
		tree := t.TempDir()
		require.NoError(t, os.MkdirAll(filepath.Join(tree, "usr/lib/muster"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(tree, fileFeatures), []byte(text), 0o644))
		require.Equal(t, want, featureLevel(tree), text)
	}
	require.Zero(t, featureLevel(t.TempDir()))
}
