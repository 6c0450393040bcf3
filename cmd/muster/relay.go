package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
)

func newRelayCommand() *cobra.Command {
	var opts node.RelayOptions
	var service service
	c := &cobra.Command{
		Use: "relay", Args: cobra.NoArgs,
		Short: "Be a meeting place for nodes behind NAT, and nothing else",
		Long: `Be a meeting place for the nodes of one token that cannot reach each other: a
machine that all of them can reach, with no role in any site. It takes the token
and network_id from the same cloud-config as a node. Nodes find it through an
address in their token ("muster token generate --bootstrap ADDRESS") or through
p2p.bootstrap. What it relays is encrypted from end to end.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, log, err := service.load(c.Context())
			if err != nil {
				return err
			}
			if cfg.P2P.NetworkToken == "" {
				return usage(errors.New("the configuration has no p2p.network_token, so there is nobody to relay for"))
			}
			opts.Config, opts.Log = cfg, log
			opts.Ready = func(string) { tellSystemd(log, "READY=1") }
			node.LimitMemory()
			return node.RunRelay(c.Context(), opts)
		},
	}
	service.flags(c, &opts.StateDir, node.DefaultRelayDir, "where the relay's identity is kept")
	c.Flags().IntVar(&opts.Port, "port", node.DefaultPort, "UDP and TCP port")
	return c
}
