package main

import (
	"errors"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/node/config"
)

func newRelayCommand() *cobra.Command {
	var files []string
	var opts node.RelayOptions
	var format string
	c := &cobra.Command{
		Use: "relay", Args: cobra.NoArgs,
		Short: "Be a meeting place for nodes behind NAT, and nothing else",
		Long: `Be a meeting place for the nodes of one token that cannot reach each other: a
machine that all of them can reach, with no role in any site. It takes the token
and network_id from the same cloud-config as a node. Nodes find it through an
address in their token ("muster token generate --bootstrap ADDRESS") or through
p2p.bootstrap. What it relays is encrypted from end to end.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, warnings, err := config.Load(c.Context(), sources(files))
			if err != nil {
				return invalid(err)
			}
			log, err := logger(format, cfg.P2P.LogLevel)
			if err != nil {
				return err
			}
			for _, w := range warnings {
				log.Warn("configuration", "warning", w.String())
			}
			if cfg.P2P.NetworkToken == "" {
				return usage(errors.New("the configuration has no p2p.network_token, so there is nobody to relay for"))
			}
			opts.Config, opts.Log = cfg, log
			opts.Ready = func(string) {
				if _, err := daemon.SdNotify(false, "READY=1"); err != nil {
					log.Debug("systemd was not told", node.LogError, err)
				}
			}
			node.LimitMemory()
			return node.RunRelay(c.Context(), opts)
		},
	}
	c.Flags().StringArrayVar(&files, "config", nil, "read this file in place of the machine's own; may be repeated")
	c.Flags().StringVar(&opts.StateDir, "state-dir", node.DefaultRelayDir, "where the relay's identity is kept")
	c.Flags().IntVar(&opts.Port, "port", node.DefaultPort, "UDP and TCP port")
	c.Flags().StringVar(&format, "log-format", "text", "text or json")
	return c
}
