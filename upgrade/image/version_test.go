package image

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAVersionCanBeShownWhateverAnImageSays(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3+k3s1": "v1.2.3+k3s1", "ü 1": "ü 1", "": "",
		"1\x1b[2J\n2": "1_[2J_2", "a\u202eb": "a_b", "\xff": "\ufffd",
		strings.Repeat("ü", 5000): strings.Repeat("ü", 100),
	} {
		require.Equal(t, want, cleanVersion(version))
	}
}
