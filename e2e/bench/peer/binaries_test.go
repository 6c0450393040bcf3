package peer

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// tree writes the modules of three peers, each a program that needs nothing, and returns their folder.
func tree(t *testing.T) string {
	source := t.TempDir()
	for _, module := range modules {
		dir := filepath.Join(source, module)
		require.NoError(t, os.MkdirAll(dir, 0o700))
		for name, content := range map[string]string{
			"go.mod":  "module example.org/" + module + "\n\ngo 1.26.0\n\ntool example.org/" + module + "\n",
			"go.sum":  "",
			"main.go": "package main\n\nfunc main() {}\n",
		} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		}
	}
	return source
}

func TestPeersAreBuiltOncePerVersion(t *testing.T) {
	source, cache := tree(t), t.TempDir()
	builds := 0
	progress := func(string, ...any) { builds++ }

	first, err := Build(t.Context(), source, cache, progress)
	require.NoError(t, err)
	for _, module := range modules {
		require.FileExists(t, first.Path(module))
	}
	require.Equal(t, len(modules), builds)

	again, err := Build(t.Context(), source, cache, progress)
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, len(modules), builds, "nothing is built again")

	require.NoError(t, os.WriteFile(filepath.Join(source, "nebula", "go.sum"), []byte("\n"), 0o600))
	other, err := Build(t.Context(), source, cache, progress)
	require.NoError(t, err)
	require.NotEqual(t, first, other)
}

func TestFailedBuildLeavesNothingInTheCache(t *testing.T) {
	source, cache := tree(t), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(source, "wireguard", "main.go"), []byte("package main\n"), 0o600))
	_, err := Build(t.Context(), source, cache, func(string, ...any) {})
	require.ErrorContains(t, err, "build peer wireguard")
	require.ErrorContains(t, err, "function main is undeclared")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Build(ctx, source, cache, func(string, ...any) {})
	require.Error(t, err)

	left, err := os.ReadDir(cache)
	require.NoError(t, err)
	require.Empty(t, left)
}

// The tables name these versions, so they must be those of reference/measured.md until somebody means to change them.
func TestVersionsArePinned(t *testing.T) {
	versions, err := Versions("../peers")
	require.NoError(t, err)
	require.Equal(t, map[string]string{
		"edgevpn":   "v0.35.3",
		"nebula":    "v1.10.3",
		"wireguard": "v0.0.0-20260522210424-ecfc5a8d5446",
	}, versions)
}

func TestVersionOfAPeerThatIsNotRequiredIsAnError(t *testing.T) {
	_, err := Versions(tree(t))
	require.ErrorContains(t, err, "does not require")
	_, err = Versions(t.TempDir())
	require.ErrorIs(t, err, os.ErrNotExist)
}
