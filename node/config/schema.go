package config

import (
	"encoding/json"
	"net/netip"
	"time"
)

// Schema is a JSON schema (draft 2020-12) of a cloud-config: our blocks closed, everything else open. It accepts what
// Validate accepts, save that rules between keys are Validate's alone.
func Schema() []byte {
	root := map[string]any{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"$id":         "https://github.com/muster-edge/muster/cloud-config.json",
		"title":       "Muster cloud-config",
		"description": "The first line of the file is #cloud-config.",
		"type":        "object",
	}
	properties := known.schemas()
	for _, b := range blocks {
		if block, ok := properties[b.Name].(map[string]any); ok {
			block["description"] = b.Meaning
		}
	}
	root["properties"] = properties
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // maps, slices and scalars of a fixed table always encode
	}
	return append(out, '\n')
}

func (b *branch) schemas() map[string]any {
	properties := make(map[string]any, len(b.children))
	for name, child := range b.children {
		if child.field != nil {
			properties[name] = child.field.schema()
			continue
		}
		properties[name] = map[string]any{
			"type":                 []string{"object", "null"},
			"properties":           child.schemas(),
			"patternProperties":    map[string]any{`.\..`: true}, // dotted keys
			"additionalProperties": false,
		}
	}
	return properties
}

func (f Field) schema() map[string]any {
	s := map[string]any{"description": f.Meaning}
	if f.into == nil {
		return s
	}
	scalar := []string{"string", "number", "boolean"}
	switch at := f.into(defaults()).(type) {
	case *bool:
		s["type"] = "boolean"
	case *int:
		s["type"], s["minimum"], s["maximum"], s["default"] = "integer", f.Min, f.Max, *at
	case *time.Duration:
		s["type"], s["pattern"], s["default"] = "string", `^([0-9.]+(ns|us|µs|ms|s|m|h))+$`, short(*at)
	case *Args, *[]string:
		s["type"], s["items"] = []string{"array", "null"}, map[string]any{"type": scalar}
	case *Env:
		s["type"], s["additionalProperties"] = []string{"object", "null"}, map[string]any{"type": scalar}
	case *netip.Addr:
		s["type"], s["anyOf"] = "string", []any{map[string]any{"format": "ipv4"}, map[string]any{"format": "ipv6"}}
	default:
		s["type"] = "string"
		if len(f.Choices) > 0 {
			s["enum"] = f.Choices
			s["default"] = f.Choices[0]
		}
	}
	return s
}
