// Command muster turns identical machines into a Kubernetes site.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	root := newRootCommand()
	root.SetArgs(args)
	return finish(root.ExecuteContext(ctx), os.Stderr)
}

// finish says what went wrong and returns the exit code for it.
func finish(err error, w io.Writer) int {
	if err == nil {
		return node.ExitDone
	}
	code := node.ExitFailed
	var exit *node.ExitError
	if errors.As(err, &exit) {
		code = exit.Code
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(w, "muster:", text)
	}
	return code
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "muster",
		Short: "Turn identical machines into a Kubernetes site",
		Long: `Muster turns identical machines into a Kubernetes site by themselves. Give every
machine the same cloud-config with the same network token and switch them on:
they find each other, agree who is master and who is worker and which addresses
they have, bring up an encrypted mesh and install K3s.

Start with:
  muster token generate            make the one secret that the machines share
  muster config validate FILE      check a cloud-config before it is flashed
  muster lab up --nodes 3 --config FILE   try it on this machine
  muster deploy disk --image REF --config FILE --out disk.raw   a disk that boots into a node
On a node:
  muster why                       what this node waits for, in sentences
  muster nodes                     who is here, in which role, under which address
  muster upgrade --source REF      write another image beside the one that runs
  muster state                     what is in the slots, what is good, what happened last

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 waiting timed
out, 4 refused by policy.`,
		Version:       node.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().String("run-dir", node.DefaultRunDir, "where the agent's socket is")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(fmt.Errorf("%w; see `%s --help`", err, c.CommandPath()))
	})
	root.AddCommand(
		newAgentCommand(), newRelayCommand(), newTokenCommand(), newConfigCommand(),
		newStatusCommand(), newWhyCommand(), newNodesCommand(), newRolesCommand(), newEventsCommand(),
		newKubeconfigCommand(), newPolicyCommand(), newDNSCommand(), newLedgerCommand(), newNodeCommand(), newSiteCommand(),
		newDeployCommand(), newInstallCommand(), newUpgradeCommand(), newRollbackCommand(), newResetCommand(), newStateCommand(), newDriftCommand(),
		newLabCommand(), newLabInitCommand(), newImageCommand(), newStagesCommand(), newHealthCommand(), newRetryCommand(), newFeaturesCommand(),
	)
	wrapArguments(root)
	return root
}

// usage makes err end with the exit code for wrong usage.
func usage(err error) error { return &node.ExitError{Code: node.ExitUsage, Err: err} }

// wrapArguments gives cobra's complaints about arguments the exit code for wrong
// usage, on every command.
func wrapArguments(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usage(fmt.Errorf("%w; see `%s --help`", err, c.CommandPath()))
			}
			return nil
		}
	}
	if c.HasSubCommands() && c.Run == nil && c.RunE == nil {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(unknownCommand(c, args[0]))
			}
			return c.Help()
		}
	}
	for _, sub := range c.Commands() {
		wrapArguments(sub)
	}
}

func unknownCommand(c *cobra.Command, name string) error {
	if c.SuggestionsMinimumDistance <= 0 {
		c.SuggestionsMinimumDistance = 2 // cobra's own default
	}
	if near := c.SuggestionsFor(name); len(near) > 0 {
		return fmt.Errorf("unknown command %q; did you mean `%s %s`?", name, c.CommandPath(), near[0])
	}
	return fmt.Errorf("unknown command %q; see `%s --help`", name, c.CommandPath())
}

// output adds -o and returns how to read it.
func output(c *cobra.Command) func() (asJSON bool, err error) {
	format := c.Flags().StringP("output", "o", "text", "text or json")
	if err := c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was added a line ago
	}
	return func() (bool, error) {
		switch *format {
		case "json":
			return true, nil
		case "text":
			return false, nil
		}
		return false, usage(fmt.Errorf("-o %s: use text or json", *format))
	}
}

// client returns the client of this machine's agent.
func client(c *cobra.Command) *node.Client { return node.NewClient(runDir(c)) }

func runDir(c *cobra.Command) string {
	dir, err := c.Flags().GetString("run-dir")
	if err != nil {
		panic(err) // a flag of the root command
	}
	return dir
}
