package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/roles"
)

func newNodeLeaveCommand() *cobra.Command {
	return changeCommand(&cobra.Command{
		Use: "leave", Args: cobra.NoArgs,
		Short: "This node leaves the site",
		Long: `This node leaves the site: its Kubernetes stops, a master takes its etcd member and
its Node out of the cluster, and it is a member no more. A master's place goes to a
worker if there is one. Refused (exit 4) when it would cost the majority.`,
		Example: "  muster node leave --yes",
	}, roles.RequestLeave)
}

func newNodeRemoveCommand() *cobra.Command {
	return changeCommand(&cobra.Command{
		Use: "remove NODE", Args: cobra.ExactArgs(1),
		Short: "Remove a node that is gone for good (on a master)",
		Long: `Remove a node that is gone for good. NODE is a host name or peer ID as in ` + "`muster nodes`" + `.
Its address is never given again. A node that may be in wrong hands is revoked, not
removed. Refused (exit 4) when it would cost the majority.`,
		Example: "  muster node remove kiosk-7\n  muster node remove kiosk-7 --yes",
	}, roles.RequestRemove)
}

func newNodeReplaceCommand() *cobra.Command {
	return changeCommand(&cobra.Command{
		Use: "replace NODE", Args: cobra.ExactArgs(1),
		Short: "Give a master's place to a worker now (on a master)",
		Long: `Give a master's place to a worker now, without waiting for p2p.replace_after. The
old one is a worker when it is back. Refused (exit 4) when it would cost the majority,
or when no live worker may take the place.`,
		Example: "  muster node replace kiosk-2 --yes",
	}, roles.RequestReplace)
}

// changeCommand says what will happen, and with --yes asks for it and waits.
func changeCommand(c *cobra.Command, do roles.Request) *cobra.Command {
	format := output(c)
	yes := c.Flags().Bool("yes", false, "do it; without, only say what would happen")
	timeout := c.Flags().Duration("timeout", 10*time.Minute, "how long to wait until it is done; 0 asks and returns")
	c.RunE = func(c *cobra.Command, args []string) error {
		asJSON, err := format()
		if err != nil {
			return err
		}
		asked := node.ChangeRequest{Do: do}
		if len(args) > 0 {
			asked.Node = args[0]
		}
		done, err := runChange(c, asked, *yes, *timeout)
		if err != nil {
			return err
		}
		if asJSON {
			return node.WriteJSON(c.OutOrStdout(), done)
		}
		if err := node.WriteChange(c.OutOrStdout(), done); err != nil || *yes || done.State != node.ChangePlanned {
			return err
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), "Nothing was changed: --yes does it.")
		return err
	}
	if do != roles.RequestLeave {
		c.ValidArgsFunction = completeNodes
	}
	return c
}

func runChange(c *cobra.Command, asked node.ChangeRequest, yes bool, timeout time.Duration) (node.Change, error) {
	if !yes {
		return client(c).PlanChange(c.Context(), asked)
	}
	begun, err := client(c).RequestChange(c.Context(), asked)
	if err != nil || timeout <= 0 {
		return begun, err
	}
	ctx, cancel := context.WithTimeout(c.Context(), timeout)
	defer cancel()
	return client(c).AwaitChange(ctx, asked, begun, func(waiting string) { fmt.Fprintln(c.ErrOrStderr(), waiting) })
}

// completeNodes offers the host names that the agent knows.
func completeNodes(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	rows, err := client(c).Nodes(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, row := range rows {
		names = append(names, row.Hostname)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
