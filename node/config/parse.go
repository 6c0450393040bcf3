package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// Limits on one file. They are far above any real cloud-config (Kairos skips files above the same size) and far below
// what could hurt a machine of 1 GB.
const (
	MaxSize  = 1 << 20 // bytes
	MaxDepth = 64      // maps and lists within one another
	MaxNodes = 100_000 // values, after aliases are expanded
)

// maxSearched is the size of a file, in bytes, up to which brokenLine is worth its dozen parses.
const maxSearched = 64 << 10

// parse reads one file into a map. It finds what is wrong with the file as YAML and as a cloud-config; the keys are
// decode's business. The result is nil when the file is refused as a whole.
func parse(name string, data []byte, r *report) *node {
	file := Origin{File: name}
	switch {
	case len(data) > MaxSize:
		r.refuse(file, "", "the file is larger than the limit of %d bytes", MaxSize)
		return nil
	case len(bytes.TrimSpace(bytes.TrimPrefix(data, byteOrderMark))) == 0:
		r.refuse(file, "", "the file is empty; the first line must be #cloud-config")
		return nil
	case !utf8.Valid(data):
		r.refuse(file, "", "the file is not UTF-8 text")
		return nil
	}
	if mistake := headerMistake(data); mistake != "" {
		r.refuse(Origin{File: name, Line: 1, Column: 1}, "", "%s", mistake)
		return nil
	}
	document, err := parseYAML(data)
	if err != nil {
		line, text := explainYAML(err)
		if len(data) <= maxSearched {
			line = brokenLine(data, err)
		}
		r.refuse(Origin{File: name, Line: line}, "", "%s", text)
		return nil
	}
	if document == nil {
		r.refuse(file, "", "the file has a header and nothing else")
		return nil
	}
	c := converter{file: name, report: r}
	root, ok := c.convert(document, 0)
	switch {
	case !ok:
		return nil
	case root.kind == kindNull:
		r.refuse(file, "", "the file has a header and nothing else")
		return nil
	case root.kind != kindMap:
		r.refuse(root.origin, "", "the file must be a map of blocks such as \"p2p:\", and is %s", root.what())
		return nil
	}
	return expandDots(root, r)
}

var errTwoDocuments = errors.New("a second YAML document starts; a configuration is one")

func parseYAML(data []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := decoder.Decode(&second); err == nil {
		return nil, fmt.Errorf("yaml: line %d: %w", second.Line, errTwoDocuments)
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(document.Content) == 0 {
		return nil, nil
	}
	return document.Content[0], nil
}

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// brokenLine finds the line that makes YAML fail. yaml.v3 says where the map around it begins, or nothing; but the first
// lines of the file fail alike from the broken line on and not before, so a binary search finds it.
func brokenLine(data []byte, err error) int {
	lines := bytes.SplitAfter(data, []byte("\n"))
	ends, end := make([]int, len(lines)), 0
	for i, line := range lines {
		end += len(line)
		ends[i] = end
	}
	broken := sort.Search(len(lines), func(i int) bool {
		_, shorter := parseYAML(data[:ends[i]])
		return shorter != nil && shorter.Error() == err.Error()
	})
	return min(broken+1, len(lines))
}

// explainYAML takes the line out of a yaml.v3 error and everything quoted, which may be part of a secret: an unquoted
// token that starts with * is an "unknown anchor" to YAML.
func explainYAML(err error) (line int, text string) {
	text = strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1]) // at most what int holds: it was printed from one
		text = text[len(m[0]):]
	}
	switch {
	case errors.Is(err, errTwoDocuments):
		return line, errTwoDocuments.Error()
	case strings.HasPrefix(text, "unknown anchor"):
		return line, "not valid YAML: an alias (*) to an anchor (&) that is not there; quote a value that starts with *"
	case strings.ContainsAny(text, "'\"`\n"):
		text, _, _ = strings.Cut(text, "\n")
		for _, quote := range []string{"'", "\"", "`"} {
			if before, _, found := strings.Cut(text, quote); found {
				text = before + "…"
			}
		}
	}
	return line, "not valid YAML: " + text
}

// converter turns yaml.v3's nodes into ours, within the limits.
type converter struct {
	file   string
	report *report
	nodes  int
	path   []string // of keys, fit to be shown
	via    *Origin  // the outermost alias being expanded: where the author can act on a limit
}

// convert returns false when a limit was passed, which ends the file.
func (c *converter) convert(y *yaml.Node, depth int) (*node, bool) {
	n := &node{origin: Origin{c.file, y.Line, y.Column}}
	place := n.origin
	if c.via != nil {
		place = *c.via
	}
	if c.nodes++; c.nodes > MaxNodes {
		c.report.refuse(place, "", "more than %d values once aliases are expanded", MaxNodes)
		return nil, false
	}
	if depth > MaxDepth {
		c.report.refuse(place, "", "nested deeper than %d levels", MaxDepth)
		return nil, false
	}
	switch y.Kind {
	case yaml.AliasNode:
		if c.via == nil {
			c.via = &place
			defer func() { c.via = nil }()
		}
		return c.convert(y.Alias, depth+1)
	case yaml.ScalarNode:
		n.tag, n.text, n.style = y.ShortTag(), y.Value, y.Style&^yaml.TaggedStyle
		if n.tag != "!!null" {
			n.kind = kindScalar
		}
	case yaml.SequenceNode:
		n.kind = kindList
		for _, child := range y.Content {
			item, ok := c.convert(child, depth+1)
			if !ok {
				return nil, false
			}
			n.items = append(n.items, item)
		}
	case yaml.MappingNode:
		n.kind = kindMap
		return n, c.convertMap(n, y, depth)
	}
	return n, true
}

func (c *converter) convertMap(n *node, y *yaml.Node, depth int) bool {
	var inherited []*node
	for i := 0; i+1 < len(y.Content); i += 2 {
		key := y.Content[i]
		origin := Origin{c.file, key.Line, key.Column}
		for hops := 0; key.Kind == yaml.AliasNode && hops < MaxDepth; hops++ {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			c.report.refuse(origin, "", "a key must be text")
			return false
		}
		c.path = append(c.path, showKey(key.Value))
		path := strings.Join(c.path, ".")
		value, ok := c.convert(y.Content[i+1], depth+1)
		c.path = c.path[:len(c.path)-1]
		if !ok {
			return false
		}
		if key.ShortTag() == "!!merge" {
			if value.kind == kindList {
				inherited = append(inherited, value.items...)
			} else {
				inherited = append(inherited, value)
			}
			continue
		}
		if first, twice := n.index[key.Value]; twice {
			c.report.refuse(origin, path, "given twice; the first is on line %d", n.entries[first].origin.Line)
			continue
		}
		n.set(key.Value, origin, value)
	}
	for _, from := range inherited {
		if from.kind != kindMap {
			c.report.refuse(from.origin, "<<", "must name a map, and names %s", from.what())
			continue
		}
		for _, e := range from.entries {
			if n.get(e.key) == nil {
				n.set(e.key, e.origin, e.value)
			}
		}
	}
	return true
}

// expandDots gives dotted keys of our blocks their place (p2p.vpn.create: false). Foreign blocks keep theirs: a dot in a
// sysctl is a dot.
func expandDots(root *node, r *report) *node {
	out := &node{kind: kindMap, origin: root.origin}
	for _, e := range root.entries {
		first, rest, dotted := strings.Cut(e.key, ".")
		branch := known.children[first]
		switch {
		case branch == nil:
			out.place([]string{e.key}, e.origin, e.value) // the keys of one map differ, so this place is free
		case dotted:
			placeDotted(out, []string{first}, branch, rest, e, r)
		default:
			placeDotted(out, nil, known, first, e, r)
		}
	}
	return out
}

// placeDotted puts one entry below prefix, whose fields are branch, and goes on into the map that it may hold.
func placeDotted(out *node, prefix []string, branch *branch, key string, e entry, r *report) {
	path := append(prefix[:len(prefix):len(prefix)], splitKey(branch, key)...)
	at := known.find(path)
	value := e.value
	if at != nil && len(at.children) > 0 && value.kind == kindMap {
		if taken := out.place(path, e.origin, &node{kind: kindMap, origin: value.origin}); taken != nil {
			r.refuse(e.origin, showKey(strings.Join(path, ".")), "given twice; the first is on line %d", taken.Line)
			return
		}
		for _, inner := range value.entries {
			placeDotted(out, path, at, inner.key, inner, r)
		}
		return
	}
	if taken := out.place(path, e.origin, value); taken != nil {
		r.refuse(e.origin, showKey(strings.Join(path, ".")), "given twice; the first is on line %d", taken.Line)
	}
}

// splitKey cuts a dotted key where the table has children to go to; what is left belongs to a map of free keys, or is a
// mistake for decode to name.
func splitKey(at *branch, key string) []string {
	var path []string
	for at != nil && len(at.children) > 0 {
		first, rest, dotted := strings.Cut(key, ".")
		if _, whole := at.children[key]; whole || !dotted || first == "" || rest == "" {
			break
		}
		path, at, key = append(path, first), at.children[first], rest
	}
	return append(path, key)
}
