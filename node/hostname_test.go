package node

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p"
)

func TestAMachineIsLetInWhateverItIsCalled(t *testing.T) {
	id, _, err := p2p.OpenIdentity(t.TempDir(), p2p.Hardware{ID: "env:n1"})
	require.NoError(t, err)
	unnamed := p2p.DefaultHostname(id.ID())
	for hostname, want := range map[string]string{
		"n1":                    "n1",
		"Server1.example.com":   "server1",
		"under_score":           "under-score",
		"-":                     unnamed,
		"":                      unnamed,
		"\u00fc":                unnamed,
		"evil\x1b[2J":           "evil--2j",
		strings.Repeat("a", 64): strings.Repeat("a", 63),
	} {
		require.Equal(t, want, siteName(hostname, id.ID()))
	}
}
