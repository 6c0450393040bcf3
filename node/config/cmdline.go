package config

import (
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"
)

// parseCmdline takes a configuration out of the kernel command line: dotted keys of our blocks and of stages, Kairos's
// kairos.config=KEY=VALUE, and config_url under its three names. Everything else there is somebody else's.
func parseCmdline(name, line string, r *report) *node {
	root := &node{kind: kindMap, origin: Origin{File: name}}
	for _, w := range cmdlineWords(line) {
		key, value, assigned := strings.Cut(w.text, "=")
		if key == "kairos.config" {
			key, value, assigned = strings.Cut(value, "=")
		} else if first, _, dotted := strings.Cut(key, "."); key == "kairos.config_url" || key == "cos.setup" {
			key = "config_url"
		} else if key != "config_url" && !(dotted && (first == "stages" || known.children[first] != nil)) {
			continue
		}
		origin := Origin{File: name, Line: 1, Column: w.column}
		if !assigned || key == "" {
			r.refuse(origin, showKey(key), "needs a value: KEY=VALUE")
			continue
		}
		path := cmdlinePath(key)
		if len(path) > MaxDepth {
			r.refuse(origin, "", "nested deeper than %d levels", MaxDepth)
			continue
		}
		if taken := root.place(path, origin, cmdlineValue(value, origin)); taken != nil {
			r.refuse(origin, showKey(key), "does not fit what stands in column %d", taken.Column)
		}
	}
	return root
}

type cmdlineWord struct {
	text   string
	column int
}

// cmdlineWords splits as the kernel does (next_arg): at white space outside double quotes, quotes removed.
func cmdlineWords(line string) []cmdlineWord {
	var words []cmdlineWord
	var word strings.Builder
	quoted, start := false, -1
	end := func() {
		if start >= 0 {
			words = append(words, cmdlineWord{word.String(), start + 1})
		}
		word.Reset()
		start = -1
	}
	for i, c := range line {
		switch {
		case unicode.IsSpace(c) && !quoted:
			end()
			continue
		case c == '"':
			quoted = !quoted
		default:
			word.WriteRune(c)
		}
		if start < 0 {
			start = i
		}
	}
	end()
	return words
}

// cmdlinePath splits a key along the table and turns args[0] into args.0. Below stages every dot parts.
func cmdlinePath(key string) []string {
	key = strings.NewReplacer("[", ".", "]", "").Replace(key)
	if first, rest, dotted := strings.Cut(key, "."); dotted {
		if b := known.children[first]; b != nil {
			return append([]string{first}, splitKey(b, rest)...)
		}
		return strings.Split(key, ".")
	}
	return []string{key}
}

// cmdlineValue reads a value as YAML would, so that 3 is a number and false is false. A value that is no scalar to YAML
// is text: a token may start with any character.
func cmdlineValue(text string, origin Origin) *node {
	n := &node{kind: kindScalar, origin: origin, tag: "!!str", text: text, style: yaml.DoubleQuotedStyle}
	var y yaml.Node
	if yaml.Unmarshal([]byte(text), &y) == nil && len(y.Content) == 1 && y.Content[0].Kind == yaml.ScalarNode && y.Content[0].Value == text {
		if tag := y.Content[0].ShortTag(); tag == "!!int" || tag == "!!bool" || tag == "!!float" {
			n.tag, n.style = tag, 0
		}
	}
	return n
}
