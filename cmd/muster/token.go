package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/p2p"
)

func newTokenCommand() *cobra.Command {
	parent := &cobra.Command{Use: "token", Short: "Make, check and replace network tokens"}
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
		Use: "check",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 { // not repeated: it is a secret
				return errors.New("the token is read from standard input; an argument can be read by everybody on this machine")
			}
			return nil
		},
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
	parent.AddCommand(generate, check, newTokenRotateCommand(), newTokenShowCommand())
	return parent
}

func newTokenRotateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rotate", Args: cobra.NoArgs,
		Short: "Replace the site's token, without a restart anywhere (on a master)",
		Long: `Replace the site's token and print the new one, once, to standard output. From
now on newcomers need it; the old one lets nobody in, and who brings it is told
so. Members stay: they are known by their keys. Each gets the new token by itself,
one that is off when it returns, and keeps it on its OEM partition, so that it can
still rejoin after a reset.`,
		Example: "  muster token rotate > new-token.txt",
		RunE: func(c *cobra.Command, _ []string) error {
			line, err := client(c).RotateToken(c.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), line)
			return err
		},
	}
}

func newTokenShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show", Args: cobra.NoArgs,
		Short: "Print the token that newcomers need now (on a master)",
		RunE: func(c *cobra.Command, _ []string) error {
			line, err := client(c).Token(c.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), line)
			return err
		},
	}
}
