package section

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestASectionReplacesItselfAndNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	require.NoError(t, os.WriteFile(path, []byte("# Doc\n\n<!-- bench:b:begin -->\nold\n<!-- bench:b:end -->\ntail\n"), 0o600))
	require.NoError(t, Write(path, "b", "new\n", "make b"))
	require.NoError(t, Write(path, "c", "added", "make c"))
	require.NoError(t, Write(path, "c", "again", "make c"))
	day := time.Now().UTC().Format(time.DateOnly)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "# Doc\n\n<!-- bench:b:begin -->\nnew\n\n"+day+"\nRepeat: `make b`\n<!-- bench:b:end -->\ntail\n\n"+
		"<!-- bench:c:begin -->\nagain\n\n"+day+"\nRepeat: `make c`\n<!-- bench:c:end -->\n", string(got))

	require.NoError(t, os.WriteFile(path, []byte("<!-- bench:b:begin -->\nhalf"), 0o600))
	require.ErrorContains(t, Write(path, "b", "new", "make b"), "lacks")
}

func TestQuantiles(t *testing.T) {
	var all []time.Duration
	require.Zero(t, Quantile(all, 0.5))
	for i := range 20 {
		all = append(all, time.Duration(20-i)*time.Second)
	}
	require.Equal(t, 10*time.Second, Quantile(all, 0.5))
	require.Equal(t, 19*time.Second, Quantile(all, 0.95))
	require.Equal(t, 20*time.Second, Quantile(all, 1))
	require.Equal(t, "10.00 s (19.00)", Spread(all))
}
