package config

import (
	"log/slog"
	"regexp"
	"strings"
)

// redacted stands in every output where a secret was written.
const redacted = "redacted"

// Secret is text that prints as "redacted" however it is printed.
type Secret string

// Reveal returns the text. Whoever calls it answers for where the text goes.
func (s Secret) Reveal() string { return string(s) }

// String is empty for no secret and "redacted" for any other.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

func (s Secret) GoString() string             { return s.String() }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(s.String()) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
func (s Secret) MarshalYAML() (any, error)    { return s.String(), nil }

// Env is environment variables; values that may be secrets print as "redacted".
type Env map[string]string

// Redacted is a copy that may be shown.
func (e Env) Redacted() map[string]string {
	out := make(map[string]string, len(e))
	for name, value := range e {
		if secretName.MatchString(name) || secretText.MatchString(value) {
			value = redacted
		}
		out[name] = value
	}
	return out
}

// String names the variables and no value.
func (e Env) String() string {
	return "[" + strings.Join(sortedKeys(e), " ") + "]"
}

func (e Env) GoString() string     { return e.String() }
func (e Env) LogValue() slog.Value { return slog.StringValue(e.String()) }

// Args is command line arguments; values of flags that may be secrets print as "redacted".
type Args []string

// Redacted is a copy that may be shown. Nothing of an argument is kept behind the first secret in it: quoting is the
// shell's business, so where the secret ends is not known here.
func (a Args) Redacted() []string {
	out := make([]string, len(a))
	hide := false // the last argument was a secret flag whose value is this one
	for i, arg := range a {
		var shown []string
		words := strings.Fields(arg)
		for j, word := range words {
			if hide {
				shown, hide = append(shown, redacted), false
				break
			}
			upTo, secret := beforeSecret(word)
			if hide = secret && upTo == word && j == len(words)-1; secret && !hide {
				shown = append(shown, upTo+"="+redacted)
				break
			}
			shown = append(shown, upTo)
		}
		out[i] = strings.Join(shown, " ")
	}
	return out
}

// beforeSecret returns the part of a word that may be shown, and whether a secret follows it, in the word or after it.
func beforeSecret(word string) (upTo string, secret bool) {
	parts := strings.Split(word, "=")
	for i, name := range parts {
		last := i == len(parts)-1
		if secretName.MatchString(name) && (!last || strings.HasPrefix(word, "-") && i == 0) {
			return strings.Join(parts[:i+1], "="), true
		}
	}
	if secretText.MatchString(word) {
		return "", true
	}
	return word, false
}

func (a Args) String() string       { return "[" + strings.Join(a.Redacted(), " ") + "]" }
func (a Args) GoString() string     { return a.String() }
func (a Args) LogValue() slog.Value { return slog.StringValue(a.String()) }

var (
	// secretName matches names of variables and flags whose values are not shown. Too many is right: show is for reading.
	secretName = regexp.MustCompile(`(?i)token|secret|passw|passphrase|key|credential|auth|datastore|endpoint|^-?t$`)
	// secretText matches values that carry a password whatever their name: URLs and DSNs with a user.
	secretText = regexp.MustCompile(`://[^/\s]*@|//[^/\s:]+:[^/\s]+@|(?i)(token|secret|passw\w*|apikey)=`)
)
