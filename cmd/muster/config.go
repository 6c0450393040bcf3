package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/p2p"
)

func checkToken(token string) error {
	_, err := p2p.ParseToken(token)
	return err
}

// sources are where this machine's configuration comes from.
func sources(files []string) config.Sources {
	s := config.Sources{
		Dirs: config.DefaultDirs, Cmdline: config.CmdlineFile,
		Fetcher: config.HTTPFetcher{}, Memory: config.DirMemory(node.DefaultStateDir + "/config"), CheckToken: checkToken,
	}
	if len(files) > 0 {
		s.Dirs, s.Cmdline, s.Files = nil, "", files
	}
	return s
}

// invalid gives mistakes in a configuration, and a file that is not there, the
// exit code for them.
func invalid(err error) error {
	var mistake *config.InvalidError
	if errors.As(err, &mistake) || errors.Is(err, os.ErrNotExist) {
		return usage(err)
	}
	return err
}

func newConfigCommand() *cobra.Command {
	parent := &cobra.Command{Use: "config", Short: "Check, show and document cloud-configs"}
	validate := &cobra.Command{
		Use: "validate FILE…", Args: cobra.MinimumNArgs(1),
		Short: "Check cloud-configs and name the place of every mistake (\"-\" is standard input)",
		Long: `Check cloud-configs before they are flashed. Mistakes are named with file, line and
column, at most four lines of them, and the exit code is 2. Nothing is written.`,
		RunE: func(c *cobra.Command, args []string) error {
			for _, name := range args {
				if err := validateFile(c, name); err != nil {
					return err
				}
			}
			return nil
		},
	}
	var files []string
	showConfig := &cobra.Command{
		Use: "show", Args: cobra.NoArgs,
		Short: "Print this machine's configuration as merged, with the origin of every value, without secrets",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, warnings, err := config.Load(c.Context(), sources(files))
			if err != nil {
				return invalid(err)
			}
			for _, w := range warnings {
				fmt.Fprintln(c.ErrOrStderr(), "warning:", w)
			}
			_, err = c.OutOrStdout().Write(cfg.Redacted())
			return err
		},
	}
	showConfig.Flags().StringArrayVar(&files, "config", nil, "read this file in place of the machine's own; may be repeated")
	schema := &cobra.Command{
		Use: "schema", Args: cobra.NoArgs, Short: "Print the JSON schema of the blocks that Muster reads",
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(append(config.Schema(), '\n'))
			return err
		},
	}
	document := &cobra.Command{
		Use: "document", Args: cobra.NoArgs, Short: "Print every key with its type, default and meaning (docs/CONFIG.md)",
		RunE: func(c *cobra.Command, _ []string) error { return config.Document(c.OutOrStdout()) },
	}
	parent.AddCommand(validate, showConfig, schema, document)
	return parent
}

func validateFile(c *cobra.Command, name string) error {
	var data []byte
	var err error
	if name == "-" {
		name = "standard input"
		data, err = io.ReadAll(io.LimitReader(c.InOrStdin(), 2<<20))
	} else {
		data, err = os.ReadFile(name)
	}
	if err != nil {
		return usage(fmt.Errorf("read configuration: %w", err))
	}
	warnings, err := config.Validate(name, data, config.Options{CheckToken: checkToken})
	if err != nil {
		return invalid(err)
	}
	for _, w := range warnings {
		fmt.Fprintln(c.ErrOrStderr(), "warning:", w)
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s: valid\n", name)
	return err
}
