package report

import (
	"strings"
	"unicode/utf8"
)

// table is a Markdown table whose columns line up, so that it reads as well in a terminal.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// String renders the table, ending in a newline.
func (t *table) String() string {
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), 3)
		}
	}
	var b strings.Builder
	line := func(cells []string) {
		for i, cell := range cells {
			b.WriteString("| " + cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+1))
		}
		b.WriteString("|\n")
	}
	rule := make([]string, len(widths))
	for i, width := range widths {
		rule[i] = strings.Repeat("-", width)
	}
	line(t.head)
	line(rule)
	for _, row := range t.rows {
		line(row)
	}
	return b.String()
}

func join(bars []Bar) string {
	var texts []string
	for _, bar := range bars {
		texts = append(texts, bar.String())
	}
	return strings.Join(texts, "; ")
}
