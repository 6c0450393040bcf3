package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDocumentIsDocsConfig(t *testing.T) {
	var out strings.Builder
	require.NoError(t, Document(&out))
	golden(t, "../../docs/CONFIG.md", out.String())
}

func TestDocumentNamesEveryKey(t *testing.T) {
	var out strings.Builder
	require.NoError(t, Document(&out))
	for _, f := range ours {
		require.Contains(t, out.String(), "| `"+f.Key+"` |")
	}
	for name := range reservedFlags {
		require.Contains(t, out.String(), "| `"+dashes(name)+"` |")
	}
	for line := range strings.SplitSeq(out.String(), "\n") {
		if strings.HasPrefix(line, "| `") {
			require.Contains(t, []int{3, 7}, strings.Count(line, "|"), line)
		}
	}
}
