package node

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

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
			if r[i] == "" {
				r[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// WriteNodes writes the table of `muster nodes`.
func WriteNodes(w io.Writer, nodes []Row) error {
	var rows [][]string
	for _, n := range nodes {
		ready := "no"
		if n.Ready {
			ready = "yes"
		}
		rows = append(rows, []string{n.Hostname, string(n.Role), n.Address, string(n.Path), string(n.Phase), ready, n.K3sVersion, n.Version, n.Reason})
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
		{"coordinator", s.Coordinator},
		{"quorum", fmt.Sprintf("%s (%d voters)", quorum, len(s.Voters))},
		{"version", s.Version},
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if r[1] == "" {
			r[1] = "-"
		}
		fmt.Fprintf(t, "%s\t%s\n", r[0], r[1])
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, warning := range s.Warnings {
		fmt.Fprintln(w, "warning:", warning)
	}
	return WriteWhy(w, s)
}

// WriteWhy writes what a node waits for, a sentence each.
func WriteWhy(w io.Writer, s Status) error {
	if len(s.WaitingFor) == 0 {
		_, err := fmt.Fprintln(w, "nothing: this node is healthy in its role")
		return err
	}
	for _, sentence := range s.WaitingFor {
		if _, err := fmt.Fprintln(w, sentence); err != nil {
			return err
		}
	}
	return nil
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

// WritePolicy writes the site's policy as the configuration spells it.
func WritePolicy(w io.Writer, p roles.Policy) error { return WriteJSON(w, p) }

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
