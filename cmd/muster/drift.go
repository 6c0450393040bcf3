package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/upgrade"
)

func newDriftCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "drift", Args: cobra.NoArgs,
		Short: "List what on this machine its image does not explain",
		Long: `List the files in /etc that differ from the image that runs, and what is in /oem besides
cloud-config and Muster's own files. Changes to /etc are gone after a restart unless
the configuration makes them again; what it made is listed, too. Exit code 0, whatever
is found.`,
		Example: "  muster drift\n  muster drift -o json | jq -r '.[].path'",
	}
	asJSON := output(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		inJSON, err := asJSON()
		if err != nil {
			return err
		}
		m, _, err := slots()
		if err != nil {
			return err
		}
		found, err := m.Drift(c.Context())
		if err != nil {
			return osError(interrupted(err, "nothing was changed"))
		}
		if inJSON {
			return node.WriteJSON(c.OutOrStdout(), append([]upgrade.Drift{}, found...))
		}
		if len(found) == 0 {
			_, err := fmt.Fprintln(c.OutOrStdout(), "no drift: the image and the configuration explain all of /etc and /oem")
			return err
		}
		for _, d := range found {
			if _, err := fmt.Fprintf(c.OutOrStdout(), "%-8s %s\n", d.Change, d.Path); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}
