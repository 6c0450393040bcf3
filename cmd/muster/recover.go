package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
)

func newSiteCommand() *cobra.Command {
	parent := &cobra.Command{Use: "site", Short: "What concerns the site as a whole"}
	var ask node.AbandonRequest
	abandon := show(&cobra.Command{
		Use: "abandon", Args: cobra.NoArgs,
		Short: "Take this node out of a founding that its lost masters can neither finish nor give up",
		Long: `A node that promised itself to a founding keeps its word until the founding has
an outcome. If the founding masters that are needed for one are gone for good,
nobody can give it, and ` + "`muster why`" + ` says so. This takes the promise back: it shows
the risk, and with --yes this node durably refuses that founding and searches
anew. It is refused (exit code 4) for a member of a site, and while a majority of
the founding masters is seen, who end the founding by themselves.`,
	}, func(ctx context.Context, c *node.Client, _ []string) (node.AbandonPlan, error) {
		return c.Abandon(ctx, ask)
	}, node.WriteAbandon)
	abandon.Flags().BoolVar(&ask.Yes, "yes", false, "do it")
	abandon.Flags().StringVar(&ask.Site, "site", "", "the site ID that is meant; another one is refused")
	parent.AddCommand(abandon)
	return parent
}

func newLedgerRecoverCommand() *cobra.Command {
	var ask node.RecoveryRequest
	c := &cobra.Command{
		Use: "recover", Args: cobra.NoArgs,
		Short: "Go on from this node when a majority of the masters is lost for good",
		Long: `Without a majority of the masters nothing can be decided; what runs goes on. If
the missing ones come back, decisions resume by themselves: start them.

If they never will, run this on a master that is left, or, when none is, on any
node. It asks every node in reach, takes the newest copy of the decisions, and
shows what it would do. With --yes it begins a new generation of the site, in
which this node decides alone. Nodes in reach follow it by themselves; a lost
master that returns gives way to it, and wipes its Kubernetes data.

It refuses (exit code 4) while there is a majority, and when newer decisions were
seen somewhere. A power cut leaves either the old generation or the new one.`,
		Example: "  muster ledger recover          # what would happen\n  muster ledger recover --yes    # do it",
	}
	format := output(c)
	c.Flags().BoolVar(&ask.Yes, "yes", false, "do it")
	c.Flags().BoolVar(&ask.LoseNewer, "lose-newer", false, "go on although a node out of reach, or a worker alone, has newer decisions")
	c.RunE = func(c *cobra.Command, _ []string) error {
		asJSON, err := format()
		if err != nil {
			return err
		}
		plan, err := client(c).Recover(c.Context(), ask)
		if err != nil {
			return err
		}
		if asJSON {
			err = node.WriteJSON(c.OutOrStdout(), plan)
		} else {
			err = node.WriteRecovery(c.OutOrStdout(), plan)
		}
		if err == nil && len(plan.Refused) > 0 {
			err = &node.ExitError{Code: node.ExitRefused, Err: errors.New("recover the ledger: refused: " + strings.Join(plan.Refused, "; "))}
		}
		return err
	}
	return c
}
