// Package token reads and writes the join tokens of K3s.
//
// A token is either a bare password or the full form
//
//	K10<SHA-256 of the cluster's CA bundle, 64 hex digits>::<user>:<password>
//
// which also pins the cluster. The user is "server" for a server's own token
// and "node" for the distinct agent token.
package token

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Users that a token can name.
const (
	Server = "server"
	Node   = "node"
)

const (
	prefix  = "K10"
	maxSize = 4096
)

// ErrMalformed is what Parse wraps for anything that is no token.
var ErrMalformed = errors.New("invalid token format")

// Token is a parsed join token. CAHash is empty for a bare password.
type Token struct {
	CAHash   string
	User     string
	Password string
}

// Parse reads a token; defaultUser is the user of a bare password. Errors wrap
// ErrMalformed and never contain the token.
func Parse(s, defaultUser string) (Token, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return Token{}, fmt.Errorf("%w: empty", ErrMalformed)
	case len(s) > maxSize:
		return Token{}, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, maxSize)
	case strings.ContainsAny(s, "\n\r"):
		return Token{}, fmt.Errorf("%w: more than one line", ErrMalformed)
	case !strings.HasPrefix(s, prefix):
		return Token{User: defaultUser, Password: s}, nil
	}
	hash, credentials, found := strings.Cut(s[len(prefix):], "::")
	if !found {
		return Token{}, fmt.Errorf("%w: %s without \"::\"", ErrMalformed, prefix)
	}
	if digest, err := hex.DecodeString(hash); err != nil || len(digest) != sha256.Size {
		return Token{}, fmt.Errorf("%w: CA hash is not %d hex digits", ErrMalformed, 2*sha256.Size)
	}
	t := Token{CAHash: hash, User: defaultUser, Password: credentials}
	if user, password, found := strings.Cut(credentials, ":"); found {
		t.User, t.Password = user, password
	}
	if t.User == "" || t.Password == "" {
		return Token{}, fmt.Errorf("%w: empty user or password", ErrMalformed)
	}
	return t, nil
}

// Encode returns the secret line.
func (t Token) Encode() string {
	if t.CAHash == "" {
		return t.Password
	}
	return prefix + t.CAHash + "::" + t.User + ":" + t.Password
}

// String hides the password.
func (t Token) String() string { return "token of " + t.User }

// GoString hides the password from %#v.
func (t Token) GoString() string { return t.String() }

// CAHash is what a full token says of a CA bundle, in the bytes that /cacerts
// serves.
func CAHash(bundle []byte) string {
	digest := sha256.Sum256(bundle)
	return hex.EncodeToString(digest[:])
}
