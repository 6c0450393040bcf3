package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/upgrade"
	"github.com/muster-edge/muster/upgrade/image"
)

// upgradeCache is where an upgrade pulls to: on the disk, because /tmp of these machines is memory, and there after a
// power cut, because what is pulled is not pulled twice.
var upgradeCache = filepath.Join(node.DefaultStateDir, "images")

func newUpgradeCommand() *cobra.Command {
	var o upgrade.Options
	var reboot bool
	var files []string
	c := &cobra.Command{
		Use: "upgrade [--source REF]", Args: cobra.NoArgs,
		Short: "Install another image beside the one that runs",
		Long: `Install another image beside the one that runs. The next boot tries it; when it does
not prove good (the agent, its units and the node in its role), the machine goes back
to the image that runs now.

REF is one of
` + referenceForms + `
Without --source it is upgrade.system.source of the cloud-config, with --recovery
upgrade.recovery-system.source. When the cloud-config names a cosign-key, or --key does,
an image without a valid signature is refused.

Space, signature and everything that an image must hold are checked before anything is
changed; an interrupt or a power cut leaves the machine as it was, and the same command
continues what was pulled.

Exit code 4: the running image is still on trial, the new one is quarantined because it
fell back on this hardware before, it is not signed by the key, or another upgrade is
at work.`,
		Example: `  muster upgrade                     what the cloud-config names
  muster upgrade --source oci:registry.example/box:v7 --key cosign.pub --reboot
  muster upgrade --source ocifile:/media/box-v7.tar
  muster upgrade --source oci:registry.example/box:v7 --recovery`,
	}
	c.Flags().StringVar(&o.Source, "source", "", "the image (default: what the cloud-config names)")
	c.Flags().BoolVar(&o.Recovery, "recovery", false, "replace the recovery system, and not active")
	c.Flags().BoolVar(&o.Force, "force", false, "also an image that fell back, is quarantined or is installed already")
	c.Flags().BoolVar(&reboot, "reboot", false, "restart the machine when it is done (default: upgrade.reboot of the cloud-config)")
	c.Flags().StringArrayVar(&files, "config", nil, "read this cloud-config in place of the machine's own; may be repeated")
	complete(c, "source", completeReference)
	asJSON := output(c)
	options := sourceFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		inJSON, err := asJSON()
		if err != nil {
			return err
		}
		imageOptions, err := options()
		if err != nil {
			return err
		}
		if _, err := image.Parse(o.Source); err != nil && o.Source != "" {
			return usage(err)
		}
		m, _, err := slots()
		if err != nil {
			return err
		}
		policy, err := machinePolicy(c, files, imageOptions.Key == nil)
		if err != nil {
			return err
		}
		if o.Source == "" {
			if o.Source, err = policy.sourceFor(o.Recovery); err != nil {
				return err
			}
		}
		if imageOptions.Key == nil {
			imageOptions.Key = policy.key
		}
		imageOptions.Insecure = imageOptions.Insecure || policy.insecure
		if !c.Flags().Changed("reboot") {
			reboot = policy.reboot && !o.Recovery
		}
		result, err := installBeside(c, m, o, imageOptions)
		if err != nil {
			return osError(interrupted(err, "the machine is as it was before"))
		}
		if inJSON {
			err = node.WriteJSON(c.OutOrStdout(), result)
		} else {
			err = writeUpgrade(c.OutOrStdout(), result, reboot)
		}
		if err != nil || !reboot || result.Unchanged {
			return err
		}
		return restart(c.Context())
	}
	c.AddCommand(newUnquarantineCommand())
	return c
}

// machinePolicy reads this machine's cloud-config. One that cannot be read may be one that demands signatures: then nothing
// is installed before somebody says which key counts.
func machinePolicy(c *cobra.Command, files []string, withKey bool) (imagePolicy, error) {
	cfg, _, err := config.Load(c.Context(), sources(files))
	if err == nil {
		return policyOf(cfg, withKey)
	}
	if !withKey && len(files) == 0 {
		return imagePolicy{}, nil // source and key are on the command line: a broken configuration must not keep it from being repaired
	}
	return imagePolicy{}, invalid(fmt.Errorf("whether a signature is demanded cannot be read (--key FILE says so in its place): %w", err))
}

func (p imagePolicy) sourceFor(recovery bool) (string, error) {
	source, key := p.source, "upgrade.system.source"
	if recovery {
		source, key = p.recovery, "upgrade.recovery-system.source"
	}
	if source == "" {
		return "", usage(fmt.Errorf("which image? --source REF, or %s in the cloud-config; see `muster upgrade --help`", key))
	}
	if _, err := image.Parse(source); err != nil {
		return "", usage(fmt.Errorf("%s of the cloud-config: %w", key, err))
	}
	return source, nil
}

// installBeside is the upgrade itself, shown on the way. What was pulled is kept until an upgrade is done.
func installBeside(c *cobra.Command, m *upgrade.Machine, o upgrade.Options, imageOptions image.Options) (upgrade.Result, error) {
	ours := imageOptions.Cache == ""
	if ours {
		imageOptions.Cache = upgradeCache
	}
	progress := startMeter(c.Context(), c.ErrOrStderr())
	defer progress.close()
	imageOptions.Progress, o.Progress = progress.image, progress.image
	progress.report("look at "+o.Source, 0, 0)
	img, err := openImage(c, o.Source, imageOptions)
	if err != nil {
		return upgrade.Result{}, err
	}
	result, err := m.Upgrade(c.Context(), img, o)
	if err = errors.Join(err, img.Close()); err != nil {
		return upgrade.Result{}, err
	}
	if ours {
		if err := image.Prune(imageOptions.Cache); err != nil {
			progress.say("warning: " + err.Error()) // the upgrade is done all the same
		}
	}
	return result, nil
}

func writeUpgrade(w io.Writer, r upgrade.Result, reboot bool) error {
	next := "the next boot tries it (`muster state`, after it `muster why`)"
	switch {
	case r.Unchanged:
		_, err := fmt.Fprintf(w, "%s holds %s already; nothing to do (--force writes it again)\n", r.Slot, imageName(r.Version, r.ID))
		return err
	case r.Slot == upgrade.Recovery:
		next = "it starts when recovery is asked for"
	case reboot:
		next = "restarting to try it"
	}
	_, err := fmt.Fprintf(w, "%s holds %s; %s\n", r.Slot, imageName(r.Version, r.ID), next)
	return err
}

// imageName is an image as people know it.
func imageName(version, id string) string {
	short := fmt.Sprintf("sha256:%.12s", strings.TrimPrefix(id, "sha256:"))
	if version == "" {
		return short
	}
	return version + " (" + short + ")"
}
