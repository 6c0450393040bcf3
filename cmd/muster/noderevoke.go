package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
)

func newNodeRevokeCommand() *cobra.Command {
	var asked node.Revocation
	format := func() (bool, error) { return false, nil }
	c := &cobra.Command{
		Use: "revoke NODE", Args: cobra.ExactArgs(1),
		Short: "Throw a node out for good: stolen, lost, or not to be trusted (on a master)",
		Long: `Throw a node out for good. In one decision it is no member any more, its mesh
address is given to nobody again, and the site's token is replaced, so that it
cannot come back under another key. Every node that hears of the decision ends
its connections to it; a node that is off hears of it before it talks to anybody.

The new token is printed to standard output, once; members have it by themselves.
NODE is a host name or peer ID as in ` + "`muster nodes`" + `.

What a node has read it knows: revoke a master only with --yes, which says that
you know what cannot be taken back.`,
		Example: "  muster node revoke kiosk-7 --reason stolen > new-token.txt",
		RunE: func(c *cobra.Command, args []string) error {
			asJSON, err := format()
			if err != nil {
				return err
			}
			asked.Node = args[0]
			done, err := client(c).Revoke(c.Context(), asked)
			if err != nil {
				return err
			}
			if asJSON {
				return node.WriteJSON(c.OutOrStdout(), done)
			}
			fmt.Fprintf(c.ErrOrStderr(), "%s (%s) is revoked; new machines need the token below\n", done.Hostname, done.ID)
			for _, note := range done.Notes {
				fmt.Fprintln(c.ErrOrStderr(), "note:", note)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), done.Token)
			return err
		},
	}
	format = output(c)
	c.Flags().StringVar(&asked.Reason, "reason", "", "why, one line, for whoever asks later")
	c.Flags().BoolVar(&asked.Yes, "yes", false, "revoke a master, knowing what it keeps")
	return c
}
