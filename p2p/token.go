package p2p

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/multiformats/go-multiaddr"
)

// The layout of a token, version 1, before base32 (docs/PROTOCOL.md):
//
//	version     1 byte, 1
//	secret     32 bytes from crypto/rand
//	name        1 byte of length, then UTF-8
//	addresses   1 byte of count; each 1 byte of length, then a binary multiaddr
//	checksum    4 bytes: the head of SHA-256(checksumContext ‖ all of the above)
//
// Base32 in lower case and without padding, because a token is typed into
// consoles, scanned from screens and selected with a double click.
const (
	tokenPrefix     = "muster1-"
	tokenVersion    = 1
	secretSize      = 32
	checksumSize    = 4
	checksumContext = "muster token checksum v1"

	maxTokenLength    = 4096 // characters, of either format
	maxTokenName      = 63   // bytes
	maxTokenBootstrap = 8    // addresses
	maxTokenAddress   = 255  // bytes, binary
)

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Token is the one line that every node of a site is given. It holds a secret,
// so it redacts itself wherever Go would print it; only Encode gives it away.
// The zero value is no token.
type Token struct {
	secret    []byte // input key material of every derivation; 32 bytes
	name      string
	bootstrap []multiaddr.Multiaddr
	foreign   string // the EdgeVPN line that it was read from
}

// TokenOptions are what a new token carries beside its secret. Neither takes
// part in a derivation: two tokens that differ only here are one network.
type TokenOptions struct {
	Name      string   // for people, at most 63 bytes
	Bootstrap []string // addresses to dial first, see ParseBootstrap; at most 8
}

// TokenError says which part of a token is wrong. It never holds the token,
// nor a piece of it.
type TokenError struct {
	Part   string // "prefix", "encoding", "length", "version", "checksum", "name", "bootstrap address 2", "EdgeVPN key otp.dht.key" …
	Reason string
}

func (e *TokenError) Error() string { return "network token: " + e.Part + ": " + e.Reason }

// GenerateToken makes a token with a fresh secret. Errors are *TokenError.
func GenerateToken(opts TokenOptions) (Token, error) {
	t := Token{secret: make([]byte, secretSize), name: opts.Name}
	if err := checkTokenName(opts.Name); err != nil {
		return Token{}, err
	}
	if len(opts.Bootstrap) > maxTokenBootstrap {
		return Token{}, &TokenError{"bootstrap addresses", fmt.Sprintf("%d of them, at most %d fit", len(opts.Bootstrap), maxTokenBootstrap)}
	}
	for i, s := range opts.Bootstrap {
		addr, err := ParseBootstrap(s)
		if err != nil {
			return Token{}, &TokenError{bootstrapPart(i), err.Error()}
		}
		if len(addr.Bytes()) > maxTokenAddress {
			return Token{}, &TokenError{bootstrapPart(i), "too long"}
		}
		t.bootstrap = append(t.bootstrap, addr)
	}
	rand.Read(t.secret) // never fails: crypto/rand ends the program instead
	return t, nil
}

// ParseToken reads a token of our own format, or one that EdgeVPN or Kairos
// made. White space around it is ignored. Errors are *TokenError.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return Token{}, &TokenError{"length", "it is empty"}
	case len(s) > maxTokenLength:
		return Token{}, &TokenError{"length", fmt.Sprintf("%d characters, at most %d are allowed", len(s), maxTokenLength)}
	case strings.IndexFunc(s, unicode.IsSpace) >= 0:
		return Token{}, &TokenError{"encoding", "white space inside; a token is one unbroken line"}
	}
	// Upper case comes from QR codes and from firmware consoles.
	if lower := strings.ToLower(s); strings.HasPrefix(lower, "muster") {
		body, ok := strings.CutPrefix(lower, tokenPrefix)
		if !ok {
			return Token{}, &TokenError{"prefix", "this Muster reads tokens that begin with " + tokenPrefix}
		}
		return parseOwnToken(body)
	}
	return parseEdgeVPNToken(s)
}

// Encode returns the secret line. Whoever prints it publishes the network.
func (t Token) Encode() string {
	if t.foreign != "" {
		return t.foreign
	}
	if len(t.secret) == 0 {
		return ""
	}
	b := append([]byte{tokenVersion}, t.secret...)
	b = append(b, byte(len(t.name)))
	b = append(b, t.name...)
	b = append(b, byte(len(t.bootstrap)))
	for _, addr := range t.bootstrap {
		b = append(b, byte(len(addr.Bytes())))
		b = append(b, addr.Bytes()...)
	}
	return tokenPrefix + tokenEncoding.EncodeToString(append(b, tokenChecksum(b)...))
}

// Name returns what the token's maker called the network, or "".
func (t Token) Name() string { return t.name }

const redactedToken = "[network token]"

func (t Token) String() string               { return redactedToken }
func (t Token) GoString() string             { return redactedToken }
func (t Token) LogValue() slog.Value         { return slog.StringValue(redactedToken) }
func (t Token) MarshalJSON() ([]byte, error) { return []byte(`"` + redactedToken + `"`), nil }

func parseOwnToken(body string) (Token, error) {
	raw, err := tokenEncoding.DecodeString(body)
	var bad base32.CorruptInputError
	switch {
	case errors.As(err, &bad) && int(bad) < len(body):
		return Token{}, &TokenError{"encoding", fmt.Sprintf("character %d is none of a-z, 2-7", len(tokenPrefix)+int(bad)+1)}
	case err != nil || tokenEncoding.EncodeToString(raw) != body:
		return Token{}, &TokenError{"length", "it ends in the middle of a byte; a character was lost or added"}
	case len(raw) < 1+secretSize+2+checksumSize:
		return Token{}, &TokenError{"length", fmt.Sprintf("%d characters, too few for a token", len(tokenPrefix)+len(body))}
	}

	head, sum := raw[:len(raw)-checksumSize], raw[len(raw)-checksumSize:]
	intact := string(tokenChecksum(head)) == string(sum)
	if head[0] != tokenVersion {
		if !intact {
			return Token{}, &TokenError{"checksum", "does not match; a character was mistyped"}
		}
		return Token{}, &TokenError{"version", fmt.Sprintf("%d, this Muster reads %d", head[0], tokenVersion)}
	}
	t, err := decodeTokenBody(head[1:])
	if !intact {
		// A cut token fails its checksum too; the length is the better hint.
		var part *TokenError
		if errors.As(err, &part) && part.Part == "length" {
			return Token{}, err
		}
		return Token{}, &TokenError{"checksum", "does not match; a character was mistyped"}
	}
	return t, err
}

func decodeTokenBody(b []byte) (Token, error) {
	t := Token{secret: append([]byte(nil), b[:secretSize]...)}
	b = b[secretSize:]
	name, b, ok := cutField(b)
	if !ok {
		return Token{}, errTokenCut
	}
	t.name = string(name)
	if len(b) == 0 {
		return Token{}, errTokenCut
	}
	count := int(b[0])
	b = b[1:]
	addresses := make([][]byte, 0, min(count, maxTokenBootstrap))
	for range count {
		var field []byte
		if field, b, ok = cutField(b); !ok {
			return Token{}, errTokenCut
		}
		addresses = append(addresses, field)
	}
	if len(b) > 0 {
		return Token{}, &TokenError{"length", fmt.Sprintf("%d bytes too many", len(b))}
	}

	if err := checkTokenName(t.name); err != nil {
		return Token{}, err
	}
	if count > maxTokenBootstrap {
		return Token{}, &TokenError{"bootstrap addresses", fmt.Sprintf("%d of them, at most %d are allowed", count, maxTokenBootstrap)}
	}
	for i, field := range addresses {
		addr, err := multiaddr.NewMultiaddrBytes(field)
		if err != nil {
			return Token{}, &TokenError{bootstrapPart(i), "is no multiaddr"}
		}
		if err := checkBootstrap(addr); err != nil {
			return Token{}, &TokenError{bootstrapPart(i), err.Error()}
		}
		t.bootstrap = append(t.bootstrap, addr)
	}
	return t, nil
}

var errTokenCut = &TokenError{"length", "it is cut short"}

// cutField takes a field with one byte of length off the front of b.
func cutField(b []byte) (field, rest []byte, ok bool) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return nil, nil, false
	}
	return b[1 : 1+int(b[0])], b[1+int(b[0]):], true
}

func tokenChecksum(head []byte) []byte {
	sum := sha256.Sum256(append([]byte(checksumContext), head...))
	return sum[:checksumSize]
}

func checkTokenName(name string) error {
	switch {
	case len(name) > maxTokenName:
		return &TokenError{"name", fmt.Sprintf("%d bytes, at most %d are allowed", len(name), maxTokenName)}
	case !utf8.ValidString(name):
		return &TokenError{"name", "is not UTF-8"}
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return &TokenError{"name", "holds characters that cannot be printed"}
	}
	return nil
}

func bootstrapPart(i int) string { return fmt.Sprintf("bootstrap address %d", i+1) }

// appendField appends b with its length before it, four bytes in big-endian
// order, so that no two lists of fields serialise alike.
func appendField(to []byte, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(to, uint32(len(b))), b...)
}
