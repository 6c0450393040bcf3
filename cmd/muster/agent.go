package main

import (
	"context"
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
	var opts node.Options
	var service service
	c := &cobra.Command{
		Use: "agent", Args: cobra.NoArgs,
		Short: "Run this machine's agent",
		Long: `Run this machine's agent: it reads the cloud-config from /oem,
/usr/local/cloud-config, /etc/muster and the kernel command line, finds or founds
the site, and keeps this machine what the site decided. It runs in the
foreground; systemd or OpenRC start it at boot. SIGTERM ends the agent and leaves
Kubernetes running.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, warnings, log, err := service.load(c.Context())
			if err != nil {
				return err
			}
			opts.Warnings = warnings
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
	service.flags(c, &opts.StateDir, node.DefaultStateDir, "where identity, facts and decisions are kept")
	c.Flags().IntVar(&opts.Port, "port", node.DefaultPort, "UDP and TCP port of the mesh's control plane")
	return c
}

// service is what the commands have in common that run until they are told to end.
type service struct {
	files  []string
	format string
}

func (s *service) flags(c *cobra.Command, stateDir *string, folder, purpose string) {
	c.Flags().StringArrayVar(&s.files, "config", nil, "read this file in place of the machine's own; may be repeated")
	c.Flags().StringVar(stateDir, "state-dir", folder, purpose)
	c.Flags().StringVar(&s.format, "log-format", "text", "text or json")
}

// load reads the configuration and starts the log, with the configuration's warnings.
func (s *service) load(ctx context.Context) (*config.Config, []string, *slog.Logger, error) {
	cfg, found, err := config.Load(ctx, sources(s.files))
	if err != nil {
		return nil, nil, nil, invalid(err)
	}
	log, err := logger(s.format, cfg.P2P.LogLevel)
	if err != nil {
		return nil, nil, nil, err
	}
	var warnings []string
	for _, w := range found {
		log.Warn("configuration", "warning", w.String())
		warnings = append(warnings, w.String())
	}
	return cfg, warnings, log, nil
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
	return node.Supervisor{Tell: func(state string) { tellSystemd(log, state) }, Watchdog: every}, nil
}

// tellSystemd does nothing where systemd did not start this process.
func tellSystemd(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Debug("systemd was not told", node.LogError, err)
	}
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
