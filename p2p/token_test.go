package p2p

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestTokenIsOneLineThatReadsBackAsItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		opts := TokenOptions{
			Name: rapid.StringMatching(`[ -~]{0,63}`).Draw(t, "name"),
			Bootstrap: rapid.SliceOfN(rapid.SampledFrom([]string{
				"192.168.1.4:7946", "[2001:db8::1]:7946", "muster.example.org:4001",
				"/ip4/10.0.0.1/udp/7946/quic-v1",
				"/dns4/example.org/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp",
			}), 0, maxTokenBootstrap).Draw(t, "bootstrap"),
		}
		token, err := GenerateToken(opts)
		require.NoError(t, err)
		line := token.Encode()
		require.Regexp(t, `^muster1-[a-z2-7]+$`, line)
		for _, variant := range []string{line, strings.ToUpper(line), "  " + line + "\n"} {
			again, err := ParseToken(variant)
			require.NoError(t, err)
			require.Equal(t, line, again.Encode())
			require.Equal(t, token.Network("a").Key("x"), again.Network("a").Key("x"))
			require.Equal(t, opts.Name, again.Name())
			require.Len(t, again.Network("").Bootstrap(), len(opts.Bootstrap))
		}
	})
}

func TestTokenErrorNamesThePartAndNeverTheToken(t *testing.T) {
	token, err := GenerateToken(TokenOptions{Name: "attic", Bootstrap: []string{"192.0.2.1:7946"}})
	require.NoError(t, err)
	line := token.Encode()
	raw, err := tokenEncoding.DecodeString(strings.TrimPrefix(line, tokenPrefix))
	require.NoError(t, err)

	// forge seals a changed body again, as a token made by another program would be.
	forge := func(change func(body []byte) []byte) string {
		body := change(append([]byte(nil), raw[:len(raw)-checksumSize]...))
		return tokenPrefix + tokenEncoding.EncodeToString(append(body, tokenChecksum(body)...))
	}
	nameAt := 1 + secretSize + 1
	edge := func(yaml string) string { return base64.StdEncoding.EncodeToString([]byte(yaml)) }

	for name, c := range map[string]struct{ line, part string }{
		"empty":                     {" \n", "length"},
		"endless":                   {strings.Repeat("a", maxTokenLength+1), "length"},
		"two lines":                 {line[:20] + "\n" + line[20:], "encoding"},
		"another format of ours":    {"muster2-" + line[8:], "prefix"},
		"something else":            {"hunter2", "prefix"},
		"a character of no base32":  {line[:30] + "!" + line[31:], "encoding"},
		"cut by one character":      {line[:len(line)-1], "length"},
		"cut by half":               {line[:len(line)/2], "length"},
		"cut to nothing":            {tokenPrefix, "length"},
		"doubled":                   {line + line[8:], "length"},
		"mistyped secret":           {line[:20] + flip(line[20]) + line[21:], "checksum"},
		"mistyped version":          {line[:8] + flip(line[8]) + line[9:], "checksum"},
		"newer version":             {forge(func(b []byte) []byte { b[0] = 2; return b }), "version"},
		"name that cannot print":    {forge(func(b []byte) []byte { b[nameAt] = 7; return b }), "name"},
		"name that is not UTF-8":    {forge(func(b []byte) []byte { b[nameAt] = 0xff; return b }), "name"},
		"address of no kind":        {forge(func(b []byte) []byte { b[len(b)-1] = 0; b[len(b)-2] = 0xff; return append(b[:nameAt+6], 1, 0xff) }), "bootstrap address 1"},
		"address not for us":        {forge(func(b []byte) []byte { return append(b[:nameAt+6], 3, 6, 0, 1) }), "bootstrap address 1"},
		"EdgeVPN, cut":              {edge(edgeVPNSample)[:101], "EdgeVPN encoding"},
		"EdgeVPN, cut after a byte": {edge(edgeVPNSample)[:100], "EdgeVPN key otp.crypto.key"},
		"EdgeVPN, last key cut":     {edge(edgeVPNSample[:len(edgeVPNSample)-30]), "EdgeVPN key max_message_size"},
		"EdgeVPN, not YAML":         {edge("otp: ]"), "EdgeVPN YAML"},
		"EdgeVPN without room":      {edge(strings.Replace(edgeVPNSample, "room:", "tomb:", 1)), "EdgeVPN key room"},
		"EdgeVPN without a key":     {edge(strings.Replace(edgeVPNSample, "key:", "lock:", 1)), "EdgeVPN key otp.dht.key"},
		"EdgeVPN with a weak key":   {edge(strings.Replace(edgeVPNSample, "SGIB6NYJMSRJF2AJDGUI2NDB5LBVCPLS", "short", 1)), "EdgeVPN key otp.crypto.key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseToken(c.line)
			var part *TokenError
			require.ErrorAs(t, err, &part)
			require.Equal(t, c.part, part.Part, err.Error())
			require.LessOrEqual(t, len(err.Error()), 160)
			for i := 0; i+8 <= len(c.line); i++ {
				if piece := c.line[i : i+8]; piece != tokenPrefix {
					require.NotContains(t, err.Error(), piece)
				}
			}
		})
	}
}

func flip(c byte) string {
	if c == 'b' {
		return "c"
	}
	return "b"
}

// edgeVPNSample is the example of EdgeVPN's documentation.
const edgeVPNSample = `otp:
  dht:
    interval: 9000
    key: LHKNKT6YZYQGGY3JANGXMLJTHRH7SW3C
    length: 32
  crypto:
    interval: 9000
    key: SGIB6NYJMSRJF2AJDGUI2NDB5LBVCPLS
    length: 32
room: ubONSBFkdWbzkSBTglFzOhWvczTBQJOR
rendezvous: exoHOajMYMSPrHhevAEEjnCHLssFfzfT
mdns: VoZfePlTchbSrdmivaqaOyQyEnTMlugi
max_message_size: 20971520
`

func TestEdgeVPNTokenIsItsKeysAndNotItsSpelling(t *testing.T) {
	parse := func(yaml string) Token {
		token, err := ParseToken(base64.StdEncoding.EncodeToString([]byte(yaml)))
		require.NoError(t, err)
		return token
	}
	key := parse(edgeVPNSample).Network("kairos").Key("x")
	require.Equal(t, key, parse(strings.ReplaceAll(edgeVPNSample, "9000", "360")).Network("kairos").Key("x"))
	require.Equal(t, key, parse("other: 1\n"+edgeVPNSample).Network("kairos").Key("x"))
	for _, secret := range []string{"LHKNKT", "SGIB6N", "ubONSB", "exoHOa", "VoZfeP"} {
		other := parse(strings.Replace(edgeVPNSample, secret, "AAAAAA", 1))
		require.NotEqual(t, key, other.Network("kairos").Key("x"))
	}
	line := base64.StdEncoding.EncodeToString([]byte(edgeVPNSample))
	require.Equal(t, line, parse(edgeVPNSample).Encode())
}

func TestEveryUseOfATokenHasItsOwnKey(t *testing.T) {
	token, err := GenerateToken(TokenOptions{})
	require.NoError(t, err)
	other, err := GenerateToken(TokenOptions{})
	require.NoError(t, err)
	seen := map[[32]byte]string{}
	for i, tok := range []Token{token, other} {
		for _, id := range []string{"", "a", "b", "ab"} {
			for _, label := range []string{"", "a", "b", "ab", "enrolment 00"} {
				seen[tok.Network(id).Key(label)] = fmt.Sprint(i, id, label)
			}
			seen[tok.Network(id).EnrolmentKey()] = ""
		}
	}
	require.Len(t, seen, 2*4*(5+1))
	require.Regexp(t, `^[0-9a-f]{20}$`, token.Network("a").Label("mdns"))
	require.NotEqual(t, token.Network("a").Label("mdns"), token.Network("b").Label("mdns"))
}

func TestTokenDoesNotPrintItself(t *testing.T) {
	token, err := GenerateToken(TokenOptions{Name: "attic"})
	require.NoError(t, err)
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	logger.Info("x", "token", token, "network", token.Network("a"))
	inJSON, err := json.Marshal(map[string]any{"t": token, "n": token.Network("a")})
	require.NoError(t, err)
	out := log.String() + string(inJSON) + fmt.Sprintf("%s %v %+v %#v %s %#v", token, token, token, token, token.Network(""), token.Network(""))
	require.NotContains(t, out, token.Encode()[20:30])
	require.NotContains(t, out, hex.EncodeToString(token.secret[:4]))
	require.NotContains(t, out, fmt.Sprint(token.secret[:4]))
}

// TestTokenVectors pins the derivation for other implementations, and for
// versions of Muster that run side by side during every upgrade.
func TestTokenVectors(t *testing.T) {
	type derived struct{ NetworkID, Key, Enrolment0, Label string }
	type vector struct {
		Comment, Token string
		Secret         string
		Derived        []derived
	}
	path := filepath.Join("testdata", "token-vectors.json")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var vectors []vector
	require.NoError(t, json.Unmarshal(b, &vectors))
	require.NotEmpty(t, vectors)
	for i, v := range vectors {
		token, err := ParseToken(v.Token)
		require.NoError(t, err)
		got := v
		got.Secret = hex.EncodeToString(token.secret)
		got.Derived = nil
		for _, d := range v.Derived {
			n := token.Network(d.NetworkID)
			key, enrolment := n.Key("example"), n.EnrolmentKey()
			got.Derived = append(got.Derived, derived{d.NetworkID, hex.EncodeToString(key[:]), hex.EncodeToString(enrolment[:]), n.Label("example")})
		}
		if os.Getenv("UPDATE_GOLDEN") != "" {
			vectors[i] = got
			continue
		}
		require.Equal(t, v, got)
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		b, err := json.MarshalIndent(vectors, "", "  ")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, append(b, '\n'), 0o644))
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("muster1-")
	f.Add(base64.StdEncoding.EncodeToString([]byte(edgeVPNSample)))
	token, err := GenerateToken(TokenOptions{Name: "n", Bootstrap: []string{"192.0.2.1:1", "/dns/x/tcp/2"}})
	require.NoError(f, err)
	f.Add(token.Encode())
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			var part *TokenError
			require.ErrorAs(t, err, &part)
			return
		}
		again, err := ParseToken(token.Encode())
		require.NoError(t, err)
		require.Equal(t, token.Network("x").Key("y"), again.Network("x").Key("y"))
		require.Equal(t, token.Encode(), again.Encode())
		for _, addr := range token.Network("").Bootstrap() {
			_, err := ParseBootstrap(addr)
			require.NoError(t, err)
		}
	})
}
