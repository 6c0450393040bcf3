package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/upgrade"
)

func newRollbackCommand() *cobra.Command {
	var o upgrade.Options
	var reboot, yes bool
	c := &cobra.Command{
		Use: "rollback", Args: cobra.NoArgs,
		Short: "Start the image in passive from the next boot on, and the one in active no more",
		Long: `Start the image in passive from the next boot on. The one in active loses its standing
and is not tried again before it is installed anew (muster upgrade --force). It is not
quarantined: you said it, not the machine. On a terminal you are asked first.

Exit code 4: passive cannot be read, or never proved good (--force starts it all the
same).`,
		Example: `  muster state               what is in passive?
  muster rollback --reboot`,
		RunE: func(c *cobra.Command, _ []string) error {
			m, _, err := slots()
			if err != nil {
				return err
			}
			if !yes {
				s, err := m.State(c.Context(), false)
				if err != nil {
					return osError(interrupted(err, "nothing was changed"))
				}
				from, to := s.Slots[upgrade.Active], s.Slots[upgrade.Passive]
				question := fmt.Sprintf("From the next boot on this machine starts %s, and %s no more.", imageName(to.Version, to.Digest), imageName(from.Version, from.Digest))
				if err := confirm(c, question, "rollback", false); err != nil {
					return err
				}
			}
			if err := m.Rollback(o); err != nil {
				return osError(err)
			}
			next := "passive starts from the next boot on"
			if reboot {
				next += "; restarting"
			}
			if _, err := fmt.Fprintln(c.OutOrStdout(), next); err != nil || !reboot {
				return err
			}
			return restart(c.Context())
		},
	}
	c.Flags().BoolVar(&o.Force, "force", false, "also to an image that never proved good")
	c.Flags().BoolVar(&reboot, "reboot", false, "restart the machine now")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newUnquarantineCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "unquarantine DIGEST --reason TEXT", Args: cobra.ExactArgs(1),
		Short: "Let an image that fell back be installed on this hardware again",
		Long: `Let an image that fell back be installed on this hardware again. DIGEST is what
muster state shows, or as much of its beginning as is needed to tell it from others. The
reason is kept with the decision in /oem/muster/upgrade.json.`,
		Example: `  muster upgrade unquarantine sha256:5e0c12ab --reason "the switch was off, not the image"`,
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			ids, _ := quarantined(c.Context(), thisMachine()) // nothing to offer
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usage(errors.New("why? --reason TEXT is kept with the decision"))
			}
			m, _, err := slots()
			if err != nil {
				return err
			}
			id, err := whichQuarantined(c.Context(), m, args[0])
			if err != nil {
				return osError(err)
			}
			if err := m.Unquarantine(id, reason, upgrade.Options{}); err != nil {
				return osError(err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s may be installed again\n", imageName("", id))
			return err
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why it is not the image's fault")
	complete(c, "reason", cobra.NoFileCompletions)
	return c
}

// quarantined lists the ids of what is quarantined on this machine's hardware.
func quarantined(ctx context.Context, m *upgrade.Machine) (ids []string, err error) {
	s, err := m.State(ctx, false)
	for _, q := range s.Quarantined {
		if q.Model == m.Model {
			ids = append(ids, q.ID)
		}
	}
	return ids, err
}

// whichQuarantined finds the one that begins like this.
func whichQuarantined(ctx context.Context, m *upgrade.Machine, begins string) (string, error) {
	ids, err := quarantined(ctx, m)
	if err != nil {
		return "", err
	}
	begins = strings.TrimSuffix(strings.TrimPrefix(begins, "sha256:"), "…")
	var found []string
	for _, id := range ids {
		if begins != "" && strings.HasPrefix(id, begins) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return begins, nil // package upgrade says that it is not
	}
	return "", usage(fmt.Errorf("%d quarantined images begin with %q; give more of the digest", len(found), begins))
}
