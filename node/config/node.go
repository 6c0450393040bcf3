package config

import (
	"strconv"

	"gopkg.in/yaml.v3"
)

type kind int

const (
	kindNull kind = iota
	kindScalar
	kindList
	kindMap
)

// node is a YAML value that knows its file. Aliases are resolved and merge keys applied.
type node struct {
	kind    kind
	origin  Origin
	tag     string // of a scalar: !!str, !!int, !!bool …
	text    string // of a scalar, as written
	style   yaml.Style
	entries []entry        // of a map, in the order written
	index   map[string]int // of a map: key to entry
	items   []*node        // of a list
}

type entry struct {
	key    string
	origin Origin // of the key
	value  *node
}

// what names the kind of a value to the person who wrote it.
func (n *node) what() string {
	switch n.kind {
	case kindNull:
		return "nothing"
	case kindList:
		return "a list"
	case kindMap:
		return "a map"
	}
	switch n.tag {
	case "!!int":
		return "a whole number"
	case "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	}
	return "text"
}

func (n *node) get(key string) *node {
	if n == nil || n.kind != kindMap {
		return nil
	}
	if i, ok := n.index[key]; ok {
		return n.entries[i].value
	}
	return nil
}

func (n *node) set(key string, origin Origin, value *node) {
	if i, ok := n.index[key]; ok {
		n.entries[i] = entry{key, origin, value}
		return
	}
	if n.index == nil {
		n.index = make(map[string]int)
	}
	n.index[key] = len(n.entries)
	n.entries = append(n.entries, entry{key, origin, value})
}

// yaml turns the node back into what yaml.v3 decodes, lines and columns kept.
func (n *node) yaml() *yaml.Node {
	y := &yaml.Node{Line: n.origin.Line, Column: n.origin.Column}
	switch n.kind {
	case kindNull:
		y.Kind, y.Tag, y.Value = yaml.ScalarNode, "!!null", "null"
	case kindScalar:
		y.Kind, y.Tag, y.Value, y.Style = yaml.ScalarNode, n.tag, n.text, n.style
	case kindList:
		y.Kind, y.Tag = yaml.SequenceNode, "!!seq"
		for _, item := range n.items {
			y.Content = append(y.Content, item.yaml())
		}
	case kindMap:
		y.Kind, y.Tag = yaml.MappingNode, "!!map"
		for _, e := range n.entries {
			key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: e.key, Line: e.origin.Line, Column: e.origin.Column}
			y.Content = append(y.Content, key, e.value.yaml())
		}
	}
	return y
}

// merge lays b over a as Kairos does: maps merge deeply, lists of maps concatenate, lists of anything else take in what
// they lack, and every other value of b replaces a's. Neither a nor b may be used afterwards.
func merge(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.kind == kindMap && b.kind == kindMap:
		for _, e := range b.entries {
			a.set(e.key, e.origin, merge(a.get(e.key), e.value))
		}
		a.origin = b.origin
		return a
	case a.kind == kindMap && b.kind == kindNull:
		return a // a block whose keys are all commented out
	case a.kind == kindList && b.kind == kindList:
		a.items = mergeItems(a.items, b.items)
		a.origin = b.origin
		return a
	}
	return b
}

func mergeItems(a, b []*node) []*node {
	if len(a) == 0 || a[0].kind == kindMap {
		return append(a, b...)
	}
	type scalar struct{ tag, text string }
	present := make(map[scalar]bool, len(a))
	for _, item := range a {
		present[scalar{item.tag, item.text}] = true // what is no scalar has neither
	}
	for _, item := range b {
		if item.kind != kindScalar || !present[scalar{item.tag, item.text}] {
			a = append(a, item)
		}
	}
	return a
}

// place puts value under a dotted path, making the maps on the way. It returns the place that already holds a value, if
// one does: two maps join, anything else given twice is the author's mistake to settle.
func (n *node) place(path []string, origin Origin, value *node) (taken *Origin) {
	switch n.kind {
	case kindMap:
	case kindList:
		return n.placeItem(path, origin, value)
	default:
		return &n.origin
	}
	present := n.get(path[0])
	if len(path) == 1 {
		switch {
		case present == nil:
			n.set(path[0], origin, value)
		case present.kind == kindMap && value.kind == kindMap:
			for _, e := range value.entries {
				if taken := present.place([]string{e.key}, e.origin, e.value); taken != nil {
					return taken
				}
			}
		case present.kind == kindNull && value.kind == kindMap:
			n.set(path[0], origin, value)
		case present.kind == kindMap && value.kind == kindNull:
		default:
			return &present.origin
		}
		return nil
	}
	if present == nil || present.kind == kindNull {
		present = container(path[1], origin)
		n.set(path[0], origin, present)
	}
	return present.place(path[1:], origin, value)
}

// placeItem is place for a list: the first part of the path is an index, at most one past the end.
func (n *node) placeItem(path []string, origin Origin, value *node) (taken *Origin) {
	i, err := strconv.Atoi(path[0])
	switch {
	case err != nil || i < 0 || i > len(n.items):
		return &n.origin
	case len(path) > 1:
		if i == len(n.items) {
			n.items = append(n.items, container(path[1], origin))
		}
		return n.items[i].place(path[1:], origin, value)
	case i < len(n.items):
		return &n.items[i].origin
	}
	n.items = append(n.items, value)
	return nil
}

// container is the empty list or map that can hold a key: a number is an index.
func container(key string, origin Origin) *node {
	if _, err := strconv.Atoi(key); err == nil {
		return &node{kind: kindList, origin: origin}
	}
	return &node{kind: kindMap, origin: origin}
}
