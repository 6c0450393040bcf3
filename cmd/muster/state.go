package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/upgrade"
)

func newStateCommand() *cobra.Command {
	var verify bool
	c := &cobra.Command{
		Use: "state", Args: cobra.NoArgs,
		Short: "Show the images on this machine, which runs, which are good, and why",
		Long: `Show the images on this machine: which runs, which proved good, how often one on trial was
started, what is quarantined, how the last upgrade went and why the machine fell back.
With --verify every file of every image is read and compared (exit code 1 if one differs).

GOOD is whether an image proved good (the agent, its units and the node in its role),
TRIES how often one that has not was started.`,
		Example: "  muster state\n  muster state --verify\n  muster state -o json | jq .slots.active",
	}
	c.Flags().BoolVar(&verify, "verify", false, "read every file of the images")
	asJSON := output(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		inJSON, err := asJSON()
		if err != nil {
			return err
		}
		m, boot, err := slots()
		if err != nil {
			return err
		}
		var progress *meter
		if verify {
			progress = startMeter(c.Context(), c.ErrOrStderr())
			progress.report("read every file of the images", 0, 0)
		}
		s, err := m.State(c.Context(), verify)
		if verify {
			progress.close()
		}
		if err != nil {
			return osError(interrupted(err, "nothing was changed"))
		}
		if inJSON {
			err = node.WriteJSON(c.OutOrStdout(), s)
		} else {
			err = writeState(c.OutOrStdout(), boot, s)
		}
		for _, name := range slotNames {
			if slot := s.Slots[name]; verify && slot.Problem != "" {
				err = errors.Join(err, fmt.Errorf("%s: %s; %s", name, slot.Problem, repair(name, boot)))
			}
		}
		return err
	}
	return c
}

var slotNames = []string{upgrade.Active, upgrade.Passive, upgrade.Recovery}

// repair says how a slot is made whole.
func repair(slot string, boot upgrade.Boot) string {
	switch {
	case slot == upgrade.Recovery:
		return "`muster upgrade --recovery --source REF` writes it anew"
	case slot == upgrade.Passive:
		return "the next upgrade writes it anew"
	case boot.Slot == upgrade.Active:
		return "upgrade to another image, or restart: the boot loader takes passive when kernel or initrd are damaged"
	}
	return "`muster upgrade --source REF` writes it anew"
}

func writeState(w io.Writer, boot upgrade.Boot, s upgrade.State) error {
	var b strings.Builder
	fmt.Fprintln(&b, running(boot, s))
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nSLOT\tVERSION\tDIGEST\tGOOD\tTRIES\tNOTE")
	for _, name := range slotNames {
		slot, ok := s.Slots[name]
		if !ok {
			continue
		}
		good := "no"
		switch {
		case slot.Good:
			good = "yes"
		case name == upgrade.Recovery || slot.Digest == "":
			good = "-" // nobody judges it
		}
		version, digest := slot.Version, fmt.Sprintf("%.19s", slot.Digest)
		if slot.Digest == "" {
			version, digest = "-", "-"
		} else if version == "" {
			version = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", name, version, digest, good, slot.Tries, strings.Join(notes(name, boot, s), "; "))
	}
	_ = t.Flush() // into memory
	history(&b, s)
	// Padding behind the last column is nothing to look at.
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n"))
	return err
}

// running says what runs, and from where.
func running(boot upgrade.Boot, s upgrade.State) string {
	var version string
	slot := runningSlot(boot, s)
	if slot != "" {
		version = s.Slots[slot].Version
	}
	text := "Runs " + imageName(version, boot.Image) + " from " + boot.Slot
	switch {
	case slot == "":
		return text + "; no slot holds that image any more"
	case slot != boot.Slot:
		text += "; an upgrade moved it to " + slot
	}
	switch {
	case boot.Slot == upgrade.Recovery:
		return text + ". Data and sites are out of reach in recovery."
	case !s.Slots[slot].Good:
		return text + ", on trial: `muster why` says what it waits for."
	}
	return text + "; it proved good."
}

// runningSlot is the slot that holds the image that runs: an upgrade moves it.
func runningSlot(boot upgrade.Boot, s upgrade.State) string {
	for _, name := range []string{boot.Slot, upgrade.Passive} {
		if strings.TrimPrefix(s.Slots[name].Digest, "sha256:") == boot.Image {
			return name
		}
	}
	return ""
}

func notes(name string, boot upgrade.Boot, s upgrade.State) (notes []string) {
	slot := s.Slots[name]
	id := strings.TrimPrefix(slot.Digest, "sha256:")
	if name == runningSlot(boot, s) {
		notes = append(notes, "runs")
	}
	if u := s.LastUpgrade; name == upgrade.Active && id != boot.Image && u != nil && u.To == id && u.Outcome == upgrade.OutcomeStarted && slot.Tries == 0 {
		notes = append(notes, "the next boot tries it")
	}
	for _, q := range s.Quarantined {
		if q.ID == id && id != "" {
			notes = append(notes, "quarantined")
			break
		}
	}
	if slot.Verified != nil && *slot.Verified {
		notes = append(notes, "every file is what it should be")
	}
	if slot.Problem != "" {
		notes = append(notes, slot.Problem)
	}
	return notes
}

// history is what happened last, and why.
func history(w io.Writer, s upgrade.State) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t)
	if u := s.LastUpgrade; u == nil {
		fmt.Fprintln(t, "Last upgrade:\tnone since this machine was installed")
	} else {
		fmt.Fprintf(t, "Last upgrade:\t%s to %s in %s, from %s\n", u.Started.UTC().Format("2006-01-02 15:04 UTC"), imageName(u.Version, u.To), u.Slot, u.Source)
		fmt.Fprintf(t, "\t%s\n", outcome(*u))
	}
	if s.FallbackReason != "" {
		fmt.Fprintf(t, "Fell back:\t%s\n", s.FallbackReason)
	}
	for _, q := range s.Quarantined {
		on := q.Model
		if on == "" {
			on = "this kind of machine"
		}
		fmt.Fprintf(t, "Quarantined:\t%s on %s since %s: %s\n", imageName("", q.ID), on, q.Since.UTC().Format("2006-01-02"), q.Reason)
		fmt.Fprintf(t, "\t`muster upgrade unquarantine sha256:%.12s --reason TEXT` lets it be installed again\n", q.ID)
	}
	for _, p := range s.Problems {
		fmt.Fprintf(t, "Problem:\t%s\n", p)
	}
	_ = t.Flush() // the caller's is memory
}

func outcome(u upgrade.Story) string {
	text := map[string]string{
		upgrade.OutcomeStarted:    "written; it has not proved good yet",
		upgrade.OutcomeGood:       "it proved good",
		upgrade.OutcomeFellBack:   "it did not prove good, and the machine fell back",
		upgrade.OutcomeRolledBack: "rolled back by hand",
	}[u.Outcome]
	switch {
	case u.Slot == upgrade.Recovery:
		return "written" // nobody judges recovery
	case text == "":
		text = u.Outcome // of a newer version
	}
	if u.Reason != "" {
		text += ": " + u.Reason
	}
	return text
}
