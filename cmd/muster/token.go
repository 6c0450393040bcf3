package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/p2p"
)

func newTokenCommand() *cobra.Command {
	parent := &cobra.Command{Use: "token", Short: "Make and check network tokens"}
	var opts p2p.TokenOptions
	generate := &cobra.Command{
		Use: "generate", Args: cobra.NoArgs,
		Short: "Print a new network token",
		Long: `Print a new network token: the one secret that the machines of a site share. Put
it into the cloud-config as p2p.network_token. Whoever has it can enrol a machine.`,
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := p2p.GenerateToken(opts)
			if err != nil {
				return usage(err)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), t.Encode())
			return err
		},
	}
	generate.Flags().StringVar(&opts.Name, "name", "", "a name for people, part of the token")
	generate.Flags().StringArrayVar(&opts.Bootstrap, "bootstrap", nil, "multiaddr of a node that is always there; may be repeated")
	check := &cobra.Command{
		Use: "check", Args: cobra.NoArgs,
		Short:   "Read a token from standard input and say whether it is whole",
		Example: "  muster token check < token.txt",
		RunE: func(c *cobra.Command, _ []string) error {
			line, err := bufio.NewReader(io.LimitReader(c.InOrStdin(), 64<<10)).ReadString('\n')
			if err != nil && err != io.EOF {
				return err
			}
			if _, err := p2p.ParseToken(strings.TrimSpace(line)); err != nil {
				return usage(err)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "the token is whole")
			return err
		},
	}
	parent.AddCommand(generate, check)
	return parent
}
