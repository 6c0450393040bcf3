package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/roles"
)

func newPolicyCommand() *cobra.Command {
	parent := &cobra.Command{
		Use:   "policy",
		Short: "Show or change what the site is meant to be",
		Long: `The policy of a site is a decision: it is taken from the configuration that the
site was founded with, and from then on changed here and nowhere else.`,
	}
	showPolicy := show(&cobra.Command{Use: "show", Args: cobra.NoArgs, Short: "Show the site's policy"},
		func(ctx context.Context, c *node.Client, _ []string) (roles.Policy, error) { return c.Policy(ctx) }, node.WritePolicy)
	// Beside the policy, which scripts read, and not within.
	showPolicy.PostRunE = func(c *cobra.Command, _ []string) error {
		status, err := client(c).Status(c.Context())
		for _, sentence := range status.Drift() {
			fmt.Fprintln(c.ErrOrStderr(), sentence)
		}
		return err
	}
	set := show(&cobra.Command{
		Use: "set KEY=VALUE…", Args: cobra.MinimumNArgs(1),
		Short:   "Change fields of the policy (masters only)",
		Example: "  muster policy set replace_after=30m dynamic_roles=true",
	}, func(ctx context.Context, c *node.Client, args []string) (roles.Policy, error) {
		fields, err := policyFields(args)
		if err != nil {
			return roles.Policy{}, err
		}
		return c.SetPolicy(ctx, fields)
	}, node.WritePolicy)
	parent.AddCommand(showPolicy, set)
	return parent
}

// policyFields reads KEY=VALUE; a value that is no JSON (30m) is text.
func policyFields(args []string) (map[string]any, error) {
	fields := map[string]any{}
	for _, a := range args {
		key, value, ok := strings.Cut(a, "=")
		if !ok || key == "" {
			return nil, usage(fmt.Errorf("%q is not KEY=VALUE", a))
		}
		var v any
		if json.Unmarshal([]byte(value), &v) != nil {
			v = value
		}
		fields[key] = v
	}
	return fields, nil
}

func newDNSCommand() *cobra.Command {
	parent := &cobra.Command{
		Use:   "dns",
		Short: "Set, remove and list names that every node of the site resolves",
		Long: `Every node answers DNS on its mesh address: the nodes' own names, and the records
set here. With p2p.dns: true a node also uses it as its own resolver.`,
	}
	set := &cobra.Command{
		Use: "set NAME ADDRESS…", Args: cobra.MinimumNArgs(2),
		Short:   "Set a record for the whole site (masters only)",
		Example: "  muster dns set registry.example 10.1.0.7",
		RunE: func(c *cobra.Command, args []string) error {
			if err := client(c).SetDNS(c.Context(), args[0], args[1:]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s is %s on every node\n", args[0], strings.Join(args[1:], " "))
			return err
		},
	}
	remove := &cobra.Command{
		Use: "rm NAME", Args: cobra.ExactArgs(1), Short: "Remove a record (masters only)",
		RunE: func(c *cobra.Command, args []string) error {
			if err := client(c).RemoveDNS(c.Context(), args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s is removed\n", args[0])
			return err
		},
	}
	list := show(&cobra.Command{Use: "list", Args: cobra.NoArgs, Short: "List the records that were set"},
		func(ctx context.Context, c *node.Client, _ []string) ([]node.DNSRow, error) { return c.DNS(ctx) }, node.WriteDNS)
	parent.AddCommand(set, remove, list)
	return parent
}
