package image

import (
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAPrunedCacheHoldsNothingAndIsFilledAgain(t *testing.T) {
	layout, _ := layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: "1"}))
	host := site(t, nil)
	push(t, layout, host, "v1")
	dir := t.TempDir()
	files := func() (n int) {
		require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			require.NoError(t, err)
			if d.Type().IsRegular() && filepath.Base(path) != "lock" {
				n++
			}
			return nil
		}))
		return n
	}
	for range 2 {
		i := open(t, "oci:"+host+"/os:v1", Options{Insecure: true, Cache: dir})
		require.NoError(t, i.Pull(t.Context()))
		require.NotZero(t, files())
		require.NoError(t, Prune(dir))
		require.Zero(t, files())
	}
	require.NoError(t, Prune(filepath.Join(dir, "none")))
}

func TestACacheIsNotPrunedWhileSomebodyPulls(t *testing.T) {
	c, err := openCache(t.TempDir())
	require.NoError(t, err)
	unlock, err := c.lock()
	require.NoError(t, err)
	require.ErrorContains(t, Prune(c.dir), "another process")
	unlock()
	require.NoError(t, Prune(c.dir))
}
