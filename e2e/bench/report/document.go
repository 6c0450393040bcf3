package report

import (
	"fmt"
	"strings"
)

const opening = `# Benchmarks

Every table stems from one run in which the peers were measured one after another on the same machine. Absolute figures drift
with the machine and its load; ratios hold. ` + "`make bench`" + ` writes what stands between the markers, and nothing else.
`

// Replace puts a section's body between its markers in a document, where they are, or else at the document's end. An
// empty document is begun. A document with one marker only, or with both in the wrong order, is refused.
func Replace(document, section, body string) (string, error) {
	begin, end := "<!-- bench:"+section+":begin -->", "<!-- bench:"+section+":end -->"
	block := begin + "\n" + strings.Trim(body, "\n") + "\n" + end
	if document == "" {
		document = opening
	}
	from, to := strings.Index(document, begin), strings.Index(document, end)
	switch {
	case from < 0 && to < 0:
		return strings.TrimRight(document, "\n") + "\n\n" + block + "\n", nil
	case from < 0 || to < from:
		return "", fmt.Errorf("write section %q: its markers are not a pair: want %s before %s", section, begin, end)
	default:
		return document[:from] + block + document[to+len(end):], nil
	}
}
