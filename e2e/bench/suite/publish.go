package suite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/muster-edge/muster/e2e/bench/report"
)

// section is one part of the document, under its own markers, so that a run of one measurement leaves the others as
// they are.
type section struct {
	name, title, about, table string
	bars                      []report.Bar
}

func (s *session) body(part section, at time.Time) string {
	commit := ""
	if s.Commit != "" {
		commit = " at " + s.Commit
	}
	return fmt.Sprintf("## %s\n\n%s\n\n%s\n%s%s, on %s.\nRepeat: `%s`\n",
		part.title, part.about, part.table, at.UTC().Format(time.DateOnly), commit, s.machine, s.Repeat)
}

func (s *session) publish(sections []section) error {
	at := time.Now()
	content, err := os.ReadFile(s.Out)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write tables: %w", err)
	}
	document := string(content)
	for _, part := range sections {
		body := s.body(part, at)
		fmt.Fprintf(s.Output, "\n%s", body)
		if document, err = report.Replace(document, part.name, body); err != nil {
			return fmt.Errorf("write tables into %s: %w", s.Out, err)
		}
	}
	if err := write(s.Out, document); err != nil {
		return fmt.Errorf("write tables: %w", err)
	}
	s.progress("tables written into %s", s.Out)
	fmt.Fprintf(s.Output, "\n%s\n", summary(sections))
	if len(s.failures) > 0 {
		return errors.Join(append([]error{ErrIncomplete}, s.failures...)...)
	}
	return nil
}

// write replaces a file as a whole, so that a run that is killed leaves the old one.
func write(path, content string) error {
	beside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(beside, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(beside, path)
}

// summary is the last line of a run: the bars that were missed.
func summary(sections []section) string {
	by := map[report.Verdict][]string{}
	for _, part := range sections {
		for _, bar := range part.bars {
			by[bar.Verdict] = append(by[bar.Verdict], bar.Name)
		}
	}
	line := fmt.Sprintf("bench: bars met=%d missed=%d", len(by[report.Pass]), len(by[report.Fail]))
	if missed := by[report.Fail]; len(missed) > 0 {
		line += " (" + strings.Join(missed, "; ") + ")"
	}
	if unknown := by[report.NotMeasured]; len(unknown) > 0 {
		line += fmt.Sprintf(" not measured=%d (%s)", len(unknown), strings.Join(unknown, "; "))
	}
	return line
}
