package config

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Headers are the first comments that make a YAML file a configuration: cloud-init's own and the two that Kairos adds.
var Headers = []string{"#cloud-config", "#kairos-config", "#node-config"}

// headerLines is how far down the header may stand, behind comments and blank lines; Kairos's number.
const headerLines = 10

// byteOrderMark is what some editors put in front of UTF-8.
var byteOrderMark = []byte("\xef\xbb\xbf")

// HasHeader reports whether data starts as a configuration does.
func HasHeader(data []byte) bool {
	return headerMistake(data) == ""
}

// headerMistake says what is wrong with the header, or nothing.
func headerMistake(data []byte) string {
	const want = "the first line must be #cloud-config"
	data = bytes.TrimPrefix(data, byteOrderMark)
	for number := 1; number <= headerLines && len(data) > 0; number++ {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte("\n"))
		text := strings.TrimRight(string(line[:min(len(line), 200)]), " \t\r")
		switch {
		case slices.Contains(Headers, text):
			return ""
		case text == "":
		case !strings.HasPrefix(text, "#"):
			return want
		default:
			if meant, ok := meantHeader(text); ok {
				return fmt.Sprintf("%s; line %d is near it: write %s exactly", want, number, meant)
			}
		}
	}
	return want
}

func meantHeader(text string) (string, bool) {
	plain := "#" + strings.Join(strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return r == '#' || r == ' ' || r == ':' }), "-")
	return nearest(plain, Headers)
}
