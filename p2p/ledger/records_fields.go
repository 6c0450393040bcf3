package ledger

import (
	"reflect"
	"strings"
)

// knownFields returns the JSON names of T's fields. One of them that is absent
// from the encoding was cleared on purpose (omitempty) and stays away.
func knownFields[T any]() map[string]bool {
	names := map[string]bool{}
	t := reflect.TypeFor[T]()
	if t.Kind() != reflect.Struct {
		return names
	}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names[name] = true
	}
	return names
}
