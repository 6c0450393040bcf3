package main

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/upgrade"
)

// defaultDeadline is that of upgrade.health_deadline, for a configuration that
// cannot be read: that may be what the image on trial is bad at.
const defaultDeadline = 10 * time.Minute

// newHealthCommand is what muster-health.timer starts.
func newHealthCommand() *cobra.Command {
	return &cobra.Command{
		Use: "health", Args: cobra.NoArgs,
		Short: "Restart this machine when its image is on trial and the agent is dead (muster-health.timer does this)",
		Long: `Restart this machine when its image is on trial and the agent is dead. The agent
judges the image, unless it does not run itself: then this does, once the machine
runs for longer than upgrade.health_deadline. It never restarts a machine whose
image proved good, nor one that has no other good image to go back to.`,
		RunE: func(c *cobra.Command, _ []string) error {
			src := stageSources(nil)
			src.Fetcher = nil
			deadline := defaultDeadline
			if cfg, _, err := config.Load(c.Context(), src); err == nil {
				deadline = cfg.Upgrade.HealthDeadline
			}
			return node.CheckAgent(c.Context(), node.AgentCheck{
				Slots: upgrade.This(), RunDir: runDir(c), Deadline: deadline, Log: slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil)),
			})
		},
	}
}

// newFeaturesCommand is what an image's build asks.
func newFeaturesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "features", Args: cobra.NoArgs, Hidden: true,
		Short: "Print the feature level that this version knows (/usr/lib/muster/features of an image)",
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), node.FeatureLevel)
			return err
		},
	}
}
