package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/p2p"
)

func generated(t testing.TB) p2p.Token {
	token, err := p2p.GenerateToken(p2p.TokenOptions{Name: "attic", Bootstrap: []string{"/ip4/192.0.2.1/udp/4847/quic-v1"}})
	require.NoError(t, err)
	return token
}

func TestATokenIsReplacedByOneThatRemembersTheLastFew(t *testing.T) {
	first := generated(t)
	set := tokens{Version: 1, Present: first.Encode()}
	for range 7 {
		next, err := set.next()
		require.NoError(t, err)
		require.Equal(t, set.Epoch+1, next.Epoch)
		require.Equal(t, set.Present, next.Former[0])
		require.NotEqual(t, set.Present, next.Present)
		token, err := p2p.ParseToken(next.Present)
		require.NoError(t, err)
		require.Equal(t, "attic", token.Name())
		require.Equal(t, first.Network("").Bootstrap(), token.Network("").Bootstrap())
		raw, err := next.encode()
		require.NoError(t, err)
		read, err := parseTokens(raw)
		require.NoError(t, err)
		require.Equal(t, next, read)
		set = next
	}
	require.Len(t, set.Former, p2p.MaxFormerNetworks)
	require.False(t, set.knows(first), "of seven rotations ago")
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		require.NotContains(t, fmt.Sprintf(format, set), "muster1-")
	}
}

func TestS20TheTokenThatReplacedTheConfiguredOneSurvivesAReset(t *testing.T) {
	state, oem, configured := t.TempDir(), t.TempDir(), generated(t)
	files := []string{filepath.Join(state, tokenFile), filepath.Join(oem, "muster", tokenFile)}
	k, warnings := openTokens(configured, "id", files...)
	require.Empty(t, warnings)
	require.Equal(t, configured.Encode(), k.now().Present)
	next, err := k.now().next()
	require.NoError(t, err)
	require.NoError(t, k.keep(next))
	for _, path := range files {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	require.NoError(t, os.Remove(files[0])) // a reset keeps the OEM partition
	k, warnings = openTokens(configured, "id", files...)
	require.Empty(t, warnings)
	require.Equal(t, next, k.now())
	require.True(t, k.networks().Former[0].Same(configured.Network("id")))

	// The operator has written the new token into the configuration meanwhile.
	present, err := p2p.ParseToken(next.Present)
	require.NoError(t, err)
	k, warnings = openTokens(present, "id", files...)
	require.Empty(t, warnings)
	require.Equal(t, next, k.now())

	// Or another site's; then what was kept is of no use.
	other := generated(t)
	k, warnings = openTokens(other, "id", files...)
	require.Len(t, warnings, 1)
	require.Equal(t, other.Encode(), k.now().Present)
	require.NoError(t, os.WriteFile(files[1], []byte("{"), 0o600))
	k, warnings = openTokens(configured, "id", files...)
	require.Len(t, warnings, 1)
	require.Equal(t, configured.Encode(), k.now().Present)
}

func TestAMachineWithoutOEMPartitionKeepsTheTokenInItsState(t *testing.T) {
	state, configured := t.TempDir(), generated(t)
	k, _ := openTokens(configured, "", filepath.Join(state, tokenFile), filepath.Join(state, "no-oem", "muster", tokenFile))
	next, err := k.now().next()
	require.NoError(t, err)
	require.NoError(t, k.keep(next))
	require.NoDirExists(t, filepath.Join(state, "no-oem"))
	k, _ = openTokens(configured, "", filepath.Join(state, tokenFile))
	require.Equal(t, next, k.now())
}

func FuzzParseTokens(f *testing.F) {
	set := tokens{Version: 1, Present: generated(f).Encode()}
	next, err := set.next()
	require.NoError(f, err)
	raw, err := next.encode()
	require.NoError(f, err)
	f.Add(raw)
	f.Add([]byte(`{"version":1,"present":"muster1-aaaa"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseTokens(b)
		if err != nil {
			require.False(t, strings.Contains(err.Error(), "muster1-") && len(err.Error()) > 200)
			return
		}
		again, err := got.encode()
		require.NoError(t, err)
		read, err := parseTokens(again)
		require.NoError(t, err)
		require.Equal(t, got.Present, read.Present)
		_, err = got.networks("x")
		require.NoError(t, err)
	})
}

func TestAnAgentWithoutOEMPartitionKeepsNoTokenInItsWorkingDirectory(t *testing.T) {
	a := &Agent{opts: Options{StateDir: "/state"}}
	require.Equal(t, []string{"/state/token.json"}, a.tokenFiles())
	a.opts.OEMDir = "/oem"
	require.Equal(t, []string{"/state/token.json", "/oem/muster/token.json"}, a.tokenFiles())
}
