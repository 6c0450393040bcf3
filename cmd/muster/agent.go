package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/upgrade"
)

func newAgentCommand() *cobra.Command {
	var files []string
	var opts node.Options
	var format string
	c := &cobra.Command{
		Use: "agent", Args: cobra.NoArgs,
		Short: "Run this machine's agent",
		Long: `Run this machine's agent: it reads the cloud-config from /oem,
/usr/local/cloud-config, /etc/muster and the kernel command line, finds or founds
the site, and keeps this machine what the site decided. It runs in the
foreground; systemd or OpenRC start it at boot. SIGTERM ends the agent and leaves
Kubernetes running.`,
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
				opts.Warnings = append(opts.Warnings, w.String())
			}
			opts.Slots = upgrade.This()
			if cfg.P2P.NetworkToken == "" {
				if err := node.MarkAlone(opts.Slots, runDir(c)); err != nil {
					log.Error("the image that runs could not be marked good", node.LogError, err)
				}
				return usage(errors.New("the configuration has no p2p.network_token, so this machine belongs to no site; `muster config show` prints what was read"))
			}
			if dataMissing(runDir(c)) {
				return usage(errors.New("this machine's data (COS_PERSISTENT on /usr/local) could not be mounted: an agent without it would make itself a new identity " +
					"and join as another node; `muster state` says what was wrong, and `muster reset` makes the file system anew"))
			}
			opts.Config, opts.Log = cfg, log
			opts.Supervisor, err = supervisor(log)
			if err != nil {
				return err
			}
			opts.RunDir, opts.OEMDir = runDir(c), "/oem"
			node.LimitMemory()
			agent, err := node.New(opts)
			if err != nil {
				return fmt.Errorf("start agent: %w", err)
			}
			return agent.Run(c.Context())
		},
	}
	c.Flags().StringArrayVar(&files, "config", nil, "read this file in place of the machine's own; may be repeated")
	c.Flags().StringVar(&opts.StateDir, "state-dir", node.DefaultStateDir, "where identity, facts and decisions are kept")
	c.Flags().IntVar(&opts.Port, "port", node.DefaultPort, "UDP and TCP port of the mesh's control plane")
	c.Flags().StringVar(&format, "log-format", "text", "text or json")
	return c
}

// dataMissing says whether muster-init put memory in the place of this machine's data.
func dataMissing(runDir string) bool {
	_, err := os.Stat(filepath.Join(runDir, "no-persistent"))
	return err == nil
}

// supervisor is systemd, when it started this process; elsewhere nobody is told.
func supervisor(log *slog.Logger) (node.Supervisor, error) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return node.Supervisor{}, fmt.Errorf("read systemd's watchdog: %w", err)
	}
	tell := func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Debug("systemd was not told", node.LogError, err)
		}
	}
	return node.Supervisor{Tell: tell, Watchdog: every}, nil
}

func logger(format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		l = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, opts)), nil
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, opts)), nil
	}
	return nil, usage(fmt.Errorf("--log-format %s: use text or json", format))
}
