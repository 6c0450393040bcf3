package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

func schemaOf(t *testing.T) map[string]any {
	t.Helper()
	var schema map[string]any
	require.NoError(t, json.Unmarshal(Schema(), &schema))
	return schema
}

func TestTheSchemaAcceptsWhatValidateAccepts(t *testing.T) {
	schema := schemaOf(t)
	files, err := filepath.Glob("testdata/accepted/*.yaml")
	require.NoError(t, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var value map[string]any
		require.NoError(t, yaml.Unmarshal(data, &value))
		require.Equal(t, "", conforms(schema, value), file)
	}
}

func TestTheSchemaRefusesMistakesOfOneKey(t *testing.T) {
	schema := schemaOf(t)
	for input, want := range map[string]string{
		"p2p: {network_tokn: x}":           "/p2p/network_tokn: unknown",
		"p2p: {dns: 1}":                    "/p2p/dns: type",
		"p2p: {minimum_nodes: 0}":          "/p2p/minimum_nodes: minimum",
		"p2p: {minimum_nodes: 1001}":       "/p2p/minimum_nodes: maximum",
		"p2p: {role: master/ha}":           "/p2p/role: enum",
		"p2p: {replace_after: soon}":       "/p2p/replace_after: pattern",
		"p2p: [a]":                         "/p2p: type",
		"p2p: {auto: {ha: {masters: 1}}}":  "/p2p/auto/ha/masters: unknown",
		"k3s: {args: --x}":                 "/k3s/args: type",
		"k3s: {args: [[a]]}":               "/k3s/args/0: type",
		"k3s: {env: {A: [b]}}":             "/k3s/env/A: type",
		"hostname: 3":                      "/hostname: type",
		"foreign: {anything: [1, {a: b}]}": "",
		"upgrade: {system: {source: x}}":   "",
		"p2p: ~":                           "",
	} {
		var value map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(input), &value))
		require.Equal(t, want, conforms(schema, value), input)
		_, err := Validate("c", []byte("#cloud-config\n"+input+"\n"), Options{})
		require.Equal(t, want == "", err == nil, input)
	}
}

// conforms is the part of JSON schema that Schema uses. It returns the first violation.
func conforms(schema map[string]any, value any) string {
	if types, ok := schema["type"]; ok && !hasType(types, value) {
		return ": type"
	}
	if choices, ok := schema["enum"].([]any); ok && !slices.Contains(choices, value) {
		return ": enum"
	}
	switch v := value.(type) {
	case int:
		if least, ok := schema["minimum"].(float64); ok && float64(v) < least {
			return ": minimum"
		}
		if most, ok := schema["maximum"].(float64); ok && float64(v) > most {
			return ": maximum"
		}
	case string:
		if pattern, ok := schema["pattern"].(string); ok && !regexp.MustCompile(pattern).MatchString(v) {
			return ": pattern"
		}
	case []any:
		if items, ok := schema["items"].(map[string]any); ok {
			for i, item := range v {
				if bad := conforms(items, item); bad != "" {
					return "/" + string(rune('0'+i)) + bad
				}
			}
		}
	case map[string]any:
		for _, key := range sortedKeys(v) {
			if bad := conformsKey(schema, key, v[key]); bad != "" {
				return "/" + key + bad
			}
		}
	}
	return ""
}

func conformsKey(schema map[string]any, key string, value any) string {
	properties, _ := schema["properties"].(map[string]any)
	if below, ok := properties[key].(map[string]any); ok {
		return conforms(below, value)
	}
	patterns, _ := schema["patternProperties"].(map[string]any)
	for pattern := range patterns {
		if regexp.MustCompile(pattern).MatchString(key) {
			return ""
		}
	}
	switch more := schema["additionalProperties"].(type) {
	case bool:
		if !more {
			return ": unknown"
		}
	case map[string]any:
		return conforms(more, value)
	}
	return ""
}

func hasType(types, value any) bool {
	if one, ok := types.(string); ok {
		types = []any{one}
	}
	var names []string
	switch value.(type) {
	case nil:
		names = []string{"null"}
	case bool:
		names = []string{"boolean"}
	case int:
		names = []string{"integer", "number"}
	case float64:
		names = []string{"number"}
	case string:
		names = []string{"string"}
	case []any:
		names = []string{"array"}
	case map[string]any:
		names = []string{"object"}
	}
	return slices.ContainsFunc(types.([]any), func(t any) bool { return slices.Contains(names, t.(string)) })
}
