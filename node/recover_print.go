package node

import (
	"fmt"
	"io"
	"strings"
)

// WriteRecovery writes the plan of a recovery, or what was done, for a person.
func WriteRecovery(w io.Writer, p RecoveryPlan) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("Recovery of site %s: generation %s takes the place of %s.", p.Site, p.Generation, p.From)
	line("")
	var rows [][]string
	for _, c := range p.Copies {
		taken := ""
		if c.Node == p.Source {
			taken = "taken"
		}
		rows = append(rows, []string{c.Node, c.kind(), c.Generation, fmt.Sprint(c.Index), taken})
	}
	if err := table(&b, []string{"NODE", "COPY", "GENERATION", "DECISION", ""}, rows); err != nil {
		return err
	}
	line("")
	line("Decides from then on:  %s", oneLine(p.Node))
	line("Masters from then on:  %s", oneLine(strings.Join(p.Masters, ", ")))
	if len(p.Lost) > 0 {
		line("Given up:              %s", oneLine(strings.Join(p.Lost, ", ")))
	}
	line("")
	line("%s", oneLine(p.Kubernetes))
	line("")
	line("What is lost:")
	for _, s := range p.Loses {
		line("- %s", oneLine(s))
	}
	line("")
	switch {
	case p.Done:
		line("Done. `muster why` says what the site still waits for.")
	case len(p.Refused) > 0:
		line("Refused, nothing was changed:")
		for _, s := range p.Refused {
			line("- %s", oneLine(s))
		}
	default:
		line("Nothing was changed. Add --yes to do this.")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
