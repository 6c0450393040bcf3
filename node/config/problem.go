package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// MaxLines is how many lines an InvalidError prints. An operator at a serial console reads the first and fixes it;
// a screenful of consequences hides the cause.
const MaxLines = 4

// maxProblems bounds what is kept of a hopeless file.
const maxProblems = 100

// Origin says where a value was written. The zero Origin means the built-in default.
type Origin struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`   // from 1; 0 when only the file is known
	Column int    `json:"column,omitempty"` // from 1; 0 when only the line is known
}

// IsDefault reports whether nobody wrote the value.
func (o Origin) IsDefault() bool { return o == Origin{} }

// String is file:line:column as editors and compilers write it, or "default".
func (o Origin) String() string {
	switch {
	case o.IsDefault():
		return "default"
	case o.Line == 0:
		return o.File
	case o.Column == 0:
		return fmt.Sprintf("%s:%d", o.File, o.Line)
	}
	return fmt.Sprintf("%s:%d:%d", o.File, o.Line, o.Column)
}

func (o Origin) compare(p Origin) int {
	return cmp.Or(cmp.Compare(o.File, p.File), cmp.Compare(o.Line, p.Line), cmp.Compare(o.Column, p.Column))
}

// Problem is one mistake in a configuration, in one sentence of one line.
type Problem struct {
	Origin
	Key  string // dotted path; empty when the mistake is not about a key
	Text string
}

func (p Problem) String() string {
	return notice(p.Origin, p.Key, p.Text)
}

// Warning names something in a configuration that is legal and without the effect that its author may expect.
type Warning struct {
	Origin
	Key  string
	Text string
}

func (w Warning) String() string {
	return notice(w.Origin, w.Key, w.Text)
}

func notice(o Origin, key, text string) string {
	if key == "" {
		return fmt.Sprintf("%s: %s", o, text)
	}
	return fmt.Sprintf("%s: %s: %s", o, key, text)
}

// InvalidError is a refused configuration: everything that is wrong with it, ordered by place.
type InvalidError struct {
	Problems []Problem // the first hundred
	unlisted int       // beyond those
}

// Error prints at most MaxLines lines; the last says how many problems it leaves out.
func (e *InvalidError) Error() string {
	shown := e.Problems
	if len(shown)+min(e.unlisted, 1) > MaxLines {
		shown = shown[:MaxLines-1]
	}
	lines := make([]string, 0, MaxLines)
	for _, p := range shown {
		lines = append(lines, p.String())
	}
	if left := len(e.Problems) - len(shown) + e.unlisted; left > 0 {
		lines = append(lines, fmt.Sprintf("and %d more problems", left))
	}
	return strings.Join(lines, "\n")
}

// report collects what a pass over the configuration finds.
type report struct {
	problems []Problem
	unlisted int // problems beyond maxProblems
	warnings []Warning
}

func (r *report) refuse(o Origin, key, format string, args ...any) {
	if len(r.problems) == maxProblems {
		r.unlisted++
		return
	}
	r.problems = append(r.problems, Problem{o, key, fmt.Sprintf(format, args...)})
}

func (r *report) warn(o Origin, key, format string, args ...any) {
	w := Warning{o, key, fmt.Sprintf(format, args...)}
	if len(r.warnings) < maxProblems && !slices.Contains(r.warnings, w) {
		r.warnings = append(r.warnings, w)
	}
}

// err is an *InvalidError, or nil when nothing was refused.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	problems := slices.Clone(r.problems)
	slices.SortStableFunc(problems, func(a, b Problem) int { return a.compare(b.Origin) })
	return &InvalidError{Problems: slices.Compact(problems), unlisted: r.unlisted}
}

// told are the warnings, ordered by place.
func (r *report) told() []Warning {
	warnings := slices.Clone(r.warnings)
	slices.SortStableFunc(warnings, func(a, b Warning) int { return a.compare(b.Origin) })
	return warnings
}

// showKey makes a key that a stranger wrote fit for a message. A forgotten space turns "network_token: SECRET" into the key
// "network_token:SECRET", so nothing past the first character that no key of ours has is shown, and nothing as long as a
// secret.
func showKey(key string) string {
	end := strings.IndexFunc(key, func(r rune) bool {
		return !(r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) || r == '_' || r == '-' || r == '.')
	})
	cut := end >= 0
	if cut {
		key = key[:end]
	}
	const longest = 32 // our longest is shorter, the shortest secret that matters is longer
	if len(key) > longest {
		return fmt.Sprintf("(a key of %d characters)", len(key))
	}
	if cut {
		return key + "…"
	}
	return key
}

// showValue quotes a short value and is empty for anything that could be a secret in the wrong place.
func showValue(text string) string {
	const longest = 20
	if text == "" || len(text) > longest {
		return ""
	}
	return fmt.Sprintf(", not %q", text)
}
