package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node/config"
)

// imageConfigDir holds the stages that an image brings itself. They are the weakest.
const imageConfigDir = "/system/oem"

// offlineStages run before there is a network: what config_url names is then what was fetched last.
var offlineStages = []string{"rootfs", "initramfs", "fs", "boot"}

func newStagesCommand() *cobra.Command {
	parent := &cobra.Command{
		Use:   "stages",
		Short: "Run and list the stages of the cloud-config",
		Long: `Run and list the stages of the cloud-config, as an image of ours does while it
boots: rootfs and initramfs before the system starts, then fs, boot and network,
and reconcile every hour. The agent itself runs the stages around Kubernetes.`,
	}
	var files []string
	run := &cobra.Command{
		Use: "run NAME", Args: cobra.ExactArgs(1),
		Short: "Run a stage of this machine's cloud-config: NAME.before, NAME, NAME.after",
		Long: `Run a stage of this machine's cloud-config: NAME.before, NAME and NAME.after. A
step that fails does not keep the others from running; the exit code is then 1.
A stage that nobody wrote is done at once. Of a configuration that is wrong no
step runs, but for those that the image brings itself; the exit code is then 2.`,
		RunE: func(c *cobra.Command, args []string) error {
			name := args[0]
			src := stageSources(files)
			if slices.Contains(offlineStages, name) {
				src.Fetcher = nil
			}
			return runStage(c.Context(), name, src, len(files) == 0)
		},
	}
	list := &cobra.Command{
		Use: "list", Args: cobra.NoArgs,
		Short: "Name the stages of this machine's cloud-config and their steps",
	}
	asJSON := output(list)
	list.RunE = func(c *cobra.Command, _ []string) error {
		inJSON, err := asJSON()
		if err != nil {
			return err
		}
		src := stageSources(files)
		src.Fetcher = nil
		cfg, _, err := config.Load(c.Context(), src)
		if err != nil {
			return invalid(err)
		}
		stages, err := cfg.Stages()
		if err != nil {
			return err
		}
		if inJSON {
			return json.NewEncoder(c.OutOrStdout()).Encode(stages)
		}
		for _, s := range stages {
			if _, err := fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", s.Stage, strings.Join(s.Steps, ", ")); err != nil {
				return err
			}
		}
		return nil
	}
	for _, c := range []*cobra.Command{run, list} {
		c.Flags().StringArrayVar(&files, "config", nil, "read this file in place of the machine's own; may be repeated")
	}
	parent.AddCommand(run, list)
	return parent
}

// runStage runs a stage. When the configuration is wrong it runs that of the first of the folders alone if that is the image's: an
// operator's mistake must not take from a machine what its image needs to start.
func runStage(ctx context.Context, name string, src config.Sources, image bool) error {
	// The agent says the warnings; here they would come with every stage.
	cfg, _, err := config.Load(ctx, src)
	if err == nil {
		return config.Runner{}.RunStage(ctx, name, cfg)
	}
	err = invalid(err)
	if !image {
		return err
	}
	cfg, _, own := config.Load(ctx, config.Sources{Dirs: src.Dirs[:1]})
	if own == nil {
		own = config.Runner{}.RunStage(ctx, name, cfg)
	}
	return errors.Join(err, own)
}

// stageSources are the machine's, and those of its image.
func stageSources(files []string) config.Sources {
	s := sources(files)
	if len(files) > 0 {
		return s
	}
	s.Dirs = append([]string{imageConfigDir}, s.Dirs...)
	if _, err := os.Stat(s.Cmdline); err != nil {
		s.Cmdline = "" // a chroot may have no /proc
	}
	return s
}
