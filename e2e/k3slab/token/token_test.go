package token_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/k3slab/token"
)

var hash = token.CAHash([]byte("a CA bundle"))

func TestParseUnderstandsBothForms(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want token.Token
	}{
		"bare password":            {"secret", token.Token{User: token.Node, Password: "secret"}},
		"surrounding white space":  {" secret\n", token.Token{User: token.Node, Password: "secret"}},
		"bare password with colon": {"a:b", token.Token{User: token.Node, Password: "a:b"}},
		"full":                     {"K10" + hash + "::server:secret", token.Token{CAHash: hash, User: token.Server, Password: "secret"}},
		"full without user":        {"K10" + hash + "::secret", token.Token{CAHash: hash, User: token.Node, Password: "secret"}},
		"colon in the password":    {"K10" + hash + "::server:a:b", token.Token{CAHash: hash, User: token.Server, Password: "a:b"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := token.Parse(c.in, token.Node)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestParseRefusesMalformedTokensWithoutPrintingThem(t *testing.T) {
	for name, in := range map[string]string{
		"empty":          " ",
		"truncated":      "K10" + hash,
		"short hash":     "K10abcd::server:hunter2",
		"hash not hex":   "K10" + strings.Repeat("z", 64) + "::server:hunter2",
		"empty password": "K10" + hash + "::server:",
		"empty user":     "K10" + hash + ":::hunter2",
		"two lines":      "hunter2\nhunter2",
		"too long":       strings.Repeat("hunter2", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := token.Parse(in, token.Server)
			require.ErrorIs(t, err, token.ErrMalformed)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

func TestPrintingATokenHidesThePassword(t *testing.T) {
	parsed, err := token.Parse("K10"+hash+"::server:hunter2", token.Node)
	require.NoError(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		require.NotContains(t, fmt.Sprintf(verb, parsed), "hunter2", verb)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("secret")
	f.Add("K10" + hash + "::server:secret")
	f.Add("K10::")
	f.Fuzz(func(t *testing.T, in string) {
		parsed, err := token.Parse(in, token.Server)
		if err != nil {
			return
		}
		again, err := token.Parse(parsed.Encode(), parsed.User)
		require.NoError(t, err)
		require.Equal(t, parsed, again)
	})
}
