package p2p

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// minEdgeVPNKey is the shortest sealing key that we take for a secret, in
// characters. EdgeVPN's own are 32 (older) or 43.
const minEdgeVPNKey = 16

// edgeVPNToken is what names and protects an EdgeVPN network. Its intervals and
// sizes only tune EdgeVPN and take no part in our derivation.
type edgeVPNToken struct {
	OTP struct {
		DHT struct {
			Key string `yaml:"key"`
		} `yaml:"dht"`
		Crypto struct {
			Key string `yaml:"key"`
		} `yaml:"crypto"`
	} `yaml:"otp"`
	Room       string `yaml:"room"`
	Rendezvous string `yaml:"rendezvous"`
	MDNS       string `yaml:"mdns"`
	// The last line that EdgeVPN writes. There is no checksum, so only its
	// presence tells that no key before it was cut short.
	MaxMessageSize string `yaml:"max_message_size"`
}

// parseEdgeVPNToken reads base64 of EdgeVPN's YAML. Its keys, in a fixed order
// and whatever order or style the YAML had, are extracted into one secret.
func parseEdgeVPNToken(s string) (Token, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		if strings.HasPrefix(s, "b3Rw") { // "otp", where EdgeVPN's YAML begins
			return Token{}, &TokenError{"EdgeVPN encoding", "is not whole base64; a character was lost or mistyped"}
		}
		return Token{}, &TokenError{"prefix", "does not begin with " + tokenPrefix + " and is not an EdgeVPN token either"}
	}
	var y edgeVPNToken
	if err := yaml.Unmarshal(raw, &y); err != nil {
		// yaml's error would quote the token.
		return Token{}, &TokenError{"EdgeVPN YAML", "cannot be read; the token is cut or is something else"}
	}
	keys := []struct{ path, value string }{
		{"otp.dht.key", y.OTP.DHT.Key},
		{"otp.crypto.key", y.OTP.Crypto.Key},
		{"room", y.Room},
		{"rendezvous", y.Rendezvous},
		{"mdns", y.MDNS},
	}
	var canonical []byte
	for _, k := range keys {
		if k.value == "" {
			return Token{}, &TokenError{"EdgeVPN key " + k.path, "is missing"}
		}
		canonical = appendField(appendField(canonical, []byte(k.path)), []byte(k.value))
	}
	if y.MaxMessageSize == "" {
		return Token{}, &TokenError{"EdgeVPN key max_message_size", "is missing; the token is cut short"}
	}
	if n := len(y.OTP.Crypto.Key); n < minEdgeVPNKey {
		return Token{}, &TokenError{"EdgeVPN key otp.crypto.key", fmt.Sprintf("%d characters are too few for a secret, at least %d are needed", n, minEdgeVPNKey)}
	}
	secret, err := hkdf.Extract(sha256.New, canonical, []byte("muster edgevpn token v1"))
	if err != nil {
		panic("p2p: HKDF-Extract with SHA-256: " + err.Error())
	}
	return Token{secret: secret, foreign: s}, nil
}
