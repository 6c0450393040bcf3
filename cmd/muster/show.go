package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
)

// show makes a command that asks the agent and prints the answer as text or
// JSON.
func show[T any](c *cobra.Command, ask func(context.Context, *node.Client, []string) (T, error), text func(io.Writer, T) error) *cobra.Command {
	format := output(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		asJSON, err := format()
		if err != nil {
			return err
		}
		answer, err := ask(c.Context(), client(c), args)
		if err != nil {
			return err
		}
		if asJSON {
			return node.WriteJSON(c.OutOrStdout(), answer)
		}
		return text(c.OutOrStdout(), answer)
	}
	return c
}

func newStatusCommand() *cobra.Command {
	return show(&cobra.Command{
		Use: "status", Args: cobra.NoArgs,
		Short: "Show this node: site, phase, role, address, quorum, and what it waits for",
	}, func(ctx context.Context, c *node.Client, _ []string) (node.Status, error) { return c.Status(ctx) }, node.WriteStatus)
}

func newWhyCommand() *cobra.Command {
	return show(&cobra.Command{
		Use: "why", Args: cobra.NoArgs,
		Short: "Say what this node waits for, who it sees, and what would unblock it",
	}, func(ctx context.Context, c *node.Client, _ []string) ([]string, error) {
		s, err := c.Status(ctx)
		return s.WaitingFor, err
	}, node.WriteWhy)
}

func newNodesCommand() *cobra.Command {
	return show(&cobra.Command{
		Use: "nodes", Args: cobra.NoArgs,
		Short: "List every node of the site with role, address, path and health",
		Long: `List every node of the site, this one's view. PATH is how packets reach it: self,
direct (the mesh), relay (the mesh, through another node), lan (Kubernetes does
not use the mesh) or none. READY is the node's own verdict in its role, REASON
what it says of itself.`,
	}, func(ctx context.Context, c *node.Client, _ []string) ([]node.Row, error) { return c.Nodes(ctx) }, node.WriteNodes)
}

func newRolesCommand() *cobra.Command {
	return show(&cobra.Command{
		Use: "roles", Args: cobra.NoArgs,
		Short: "List who is what",
	}, func(ctx context.Context, c *node.Client, _ []string) ([]node.Row, error) { return c.Nodes(ctx) }, node.WriteRoles)
}

func newEventsCommand() *cobra.Command {
	return show(&cobra.Command{
		Use: "events", Args: cobra.NoArgs,
		Short: "List what happened on this node, oldest first",
	}, func(ctx context.Context, c *node.Client, _ []string) ([]node.Event, error) { return c.Events(ctx) }, node.WriteEvents)
}

func newLedgerCommand() *cobra.Command {
	parent := &cobra.Command{Use: "ledger", Short: "Read the site's decisions; recover them when their majority is lost"}
	get := show(&cobra.Command{
		Use: "get [PREFIX]", Args: cobra.MaximumNArgs(1),
		Short:   "List decisions by the beginning of their keys; secrets show as \"sealed\"",
		Example: "  muster ledger get role/\n  muster ledger get -o json | jq '.[].key'",
	}, func(ctx context.Context, c *node.Client, args []string) ([]node.LedgerRow, error) {
		prefix := ""
		if len(args) == 1 {
			prefix = args[0]
		}
		return c.Ledger(ctx, prefix)
	}, node.WriteLedger)
	parent.AddCommand(get, newLedgerRecoverCommand())
	return parent
}

func newKubeconfigCommand() *cobra.Command {
	return &cobra.Command{
		Use: "kubeconfig", Args: cobra.NoArgs,
		Short:   "Print the admin kubeconfig (masters only, exit code 4 elsewhere)",
		Example: "  muster kubeconfig > ~/.kube/config",
		RunE: func(c *cobra.Command, _ []string) error {
			text, err := client(c).Kubeconfig(c.Context())
			if err != nil {
				return err
			}
			_, err = io.WriteString(c.OutOrStdout(), text)
			return err
		},
	}
}
