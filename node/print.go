package node

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/muster-edge/muster/roles"
)

// WriteJSON writes v indented, as every `-o json` here does.
func WriteJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table writes rows under a header, columns aligned.
func table(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, r := range rows {
		for i := range r {
			if r[i] = oneLine(r[i]); r[i] == "" {
				r[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// oneLine keeps text that other nodes wrote from moving the terminal's cursor.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
}

// WriteNodes writes the table of `muster nodes`.
func WriteNodes(w io.Writer, nodes []Row) error {
	var rows [][]string
	for _, n := range nodes {
		ready := "no"
		if n.Ready {
			ready = "yes"
		}
		rows = append(rows, []string{cmp.Or(n.Hostname, n.ID), string(n.Role), n.Address, string(n.Path), string(n.Phase), ready, n.K3sVersion, n.Version, n.Reason})
	}
	return table(w, []string{"NODE", "ROLE", "ADDRESS", "PATH", "PHASE", "READY", "K3S", "MUSTER", "REASON"}, rows)
}

// WriteRoles writes the table of `muster roles`.
func WriteRoles(w io.Writer, nodes []Row) error {
	var rows [][]string
	for _, n := range nodes {
		rows = append(rows, []string{n.Hostname, n.ID, string(n.Role), n.Address})
	}
	return table(w, []string{"NODE", "ID", "ROLE", "ADDRESS"}, rows)
}

// WriteStatus writes what `muster status` shows a person.
func WriteStatus(w io.Writer, s Status) error {
	site := s.Site
	if site == "" {
		site = "none yet"
	}
	quorum := "no"
	if s.Quorum {
		quorum = "yes"
	}
	rows := [][]string{
		{"node", s.Hostname},
		{"id", s.ID},
		{"site", site},
		{"phase", string(s.Phase)},
		{"role", string(s.Role)},
		{"address", s.Address},
		{"vpn", s.VPN},
		{"members", fmt.Sprint(s.Members)},
		{"coordinator", cmp.Or(s.CoordinatorHostname, s.Coordinator)},
		{"quorum", fmt.Sprintf("%s (%d voters)", quorum, len(s.Voters))},
		{"version", s.Version},
	}
	if s.Slot != "" {
		image := strings.Join([]string{cmp.Or(s.ImageVersion, s.Image), "in", s.Slot}, " ")
		if s.Verdict != "" {
			image += ", " + string(s.Verdict)
		}
		rows = append(rows, []string{"image", image})
	}
	for _, conflict := range s.Conflicts {
		rows = append(rows, []string{"CONFLICT", conflict})
	}
	for _, warning := range s.Warnings {
		rows = append(rows, []string{"warning", warning})
	}
	for i, sentence := range sentences(s.WaitingFor) {
		label := ""
		if i == 0 {
			label = "why"
		}
		rows = append(rows, []string{label, sentence})
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\n", r[0], cmp.Or(oneLine(r[1]), "-"))
	}
	return t.Flush()
}

// WriteWhy writes what a node waits for, a sentence each.
func WriteWhy(w io.Writer, waiting []string) error {
	for _, sentence := range sentences(waiting) {
		if _, err := fmt.Fprintln(w, oneLine(sentence)); err != nil {
			return err
		}
	}
	return nil
}

func sentences(waiting []string) []string {
	if len(waiting) == 0 {
		return []string{"nothing: this node is healthy in its role"}
	}
	return waiting
}

// WriteEvents writes what happened on this node.
func WriteEvents(w io.Writer, events []Event) error {
	var rows [][]string
	for _, e := range events {
		rows = append(rows, []string{e.Time.Format(time.RFC3339), e.Kind, e.What, e.Reason})
	}
	return table(w, []string{"TIME", "KIND", "WHAT", "REASON"}, rows)
}

// WriteLedger writes decisions, a line each.
func WriteLedger(w io.Writer, entries []LedgerRow) error {
	var rows [][]string
	for _, e := range entries {
		value, err := json.Marshal(e.Value)
		if err != nil {
			return err
		}
		rows = append(rows, []string{fmt.Sprint(e.Index), e.Key, string(value)})
	}
	return table(w, []string{"INDEX", "KEY", "VALUE"}, rows)
}

// WritePolicy writes the site's policy, a field a line, as `muster policy set`
// takes them.
func WritePolicy(w io.Writer, p roles.Policy) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	// Policy's own encoding knows the names, leaves credentials out and spells
	// durations for people.
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if _, err := fmt.Fprintf(w, "%s=%v\n", name, fields[name]); err != nil {
			return err
		}
	}
	return nil
}

// WriteDNS writes the records that operators set.
func WriteDNS(w io.Writer, records []DNSRow) error {
	var rows [][]string
	for _, r := range records {
		all := make([]string, len(r.Addresses))
		for i, a := range r.Addresses {
			all[i] = a.String()
		}
		rows = append(rows, []string{r.Name, strings.Join(all, " ")})
	}
	return table(w, []string{"NAME", "ADDRESSES"}, rows)
}
