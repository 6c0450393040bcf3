package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Setting is one key of the effective configuration, fit to be shown.
type Setting struct {
	Key    string `json:"key"`
	Value  any    `json:"value"` // secrets are "redacted"; durations are text
	Origin Origin `json:"origin"`
}

// Settings lists every key of ours that has an effect, in the order of the documentation.
func (c *Config) Settings() []Setting {
	var settings []Setting
	for _, f := range ours {
		if f.NoEffect == "" && f.Key != "p2p.vpn.env" {
			settings = append(settings, Setting{f.Key, f.shown(c), c.Origin(f.Key)})
		}
	}
	return settings
}

// empty reports whether the key has no value, as a text has that nobody wrote and that has no default.
func (s Setting) empty() bool {
	switch v := s.Value.(type) {
	case string:
		return v == ""
	case []string:
		return len(v) == 0
	case map[string]string:
		return len(v) == 0
	}
	return false
}

// shown is the field's value in c, redacted.
func (f Field) shown(c *Config) any {
	switch at := f.into(c).(type) {
	case *bool:
		return *at
	case *int:
		return *at
	case *time.Duration:
		return short(*at)
	case *netip.Addr:
		if at.IsValid() {
			return at.String()
		}
		return ""
	case *Secret:
		return at.String()
	case *Args:
		return at.Redacted()
	case *Env:
		return at.Redacted()
	case *[]string:
		return append([]string{}, *at...)
	case *string:
		if f.show != nil && *at != "" {
			return f.show(*at)
		}
		return *at
	}
	return nil
}

// Redacted prints the effective configuration as a cloud-config, each key that has a value with its origin as a comment,
// secrets redacted.
// Foreign blocks may hold secrets that nobody here knows, so only their names and places are shown.
func (c *Config) Redacted() []byte {
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, s := range c.Settings() {
		if s.empty() && s.Origin.IsDefault() {
			continue
		}
		at := root
		path := strings.Split(s.Key, ".")
		for _, name := range path[:len(path)-1] {
			at = yamlMap(at, name)
		}
		value := &yaml.Node{}
		if err := value.Encode(s.Value); err != nil {
			continue // Settings holds nothing that yaml cannot encode
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: path[len(path)-1]}
		if value.Kind == yaml.ScalarNode || len(value.Content) == 0 {
			value.LineComment = s.Origin.String()
		} else {
			key.LineComment = s.Origin.String()
			for i := 0; value.Kind == yaml.MappingNode && i+1 < len(value.Content); i += 2 {
				value.Content[i+1].LineComment = c.Origin(s.Key + "." + value.Content[i].Value).String()
			}
		}
		at.Content = append(at.Content, key, value)
	}
	var out bytes.Buffer
	out.WriteString(Headers[0] + "\n")
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil { // a Buffer takes everything
		fmt.Fprintf(&out, "# %v\n", err)
	}
	for _, name := range c.Foreign() {
		fmt.Fprintf(&out, "# %s: kept, not shown; %s\n", showKey(name), c.root.get(name).origin)
	}
	return out.Bytes()
}

func yamlMap(in *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(in.Content); i += 2 {
		if in.Content[i].Value == name {
			return in.Content[i+1]
		}
	}
	below := &yaml.Node{Kind: yaml.MappingNode}
	in.Content = append(in.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, below)
	return below
}

// MarshalJSON is the effective configuration, redacted: {"settings": [{key, value, origin}], "foreign": [name]}.
func (c *Config) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Settings []Setting `json:"settings"`
		Foreign  []string  `json:"foreign"`
	}{c.Settings(), append([]string{}, c.Foreign()...)})
}
