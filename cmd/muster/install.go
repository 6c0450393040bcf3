package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/deploy"
)

func newInstallCommand() *cobra.Command {
	var flags deployFlags
	var device, source string
	var yes, dryRun bool
	c := &cobra.Command{
		Use: "install --device DISK --source REF", Args: cobra.NoArgs,
		Short: "Put an image on a disk of this machine",
		Long: `Put an image on a disk of this machine, over whatever is on it. The plan is shown
first, and nothing is changed before you type the name of the disk. Without a terminal
to ask on, --yes is needed. A disk that is mounted, used as swap or part of something
else is refused (exit code 4).

REF is one of
` + referenceForms + `
When the configuration names a cosign-key, or --key does, an image without a valid
signature is refused (exit code 4).

The disk becomes bootable at the very end: when the power fails before that, it
boots nothing, and the same command starts again from the beginning.`,
		Example: `  muster install --device /dev/sda --source oci:registry.example/site:v1.2 --config site.yaml
  muster install --device /dev/sda --source ocifile:/media/image.tar --config site.yaml --dry-run`,
		RunE: func(c *cobra.Command, _ []string) error {
			if device == "" || source == "" {
				return usage(errors.New("which image, and on which disk? --device DISK --source REF; see `muster install --help`"))
			}
			options, configuration, firmware, err := flags.read(c, source)
			if err != nil {
				return err
			}
			if !dryRun && !yes && !isTerminal(c.InOrStdin()) {
				return confirm(c, "", "", true) // before anything is fetched
			}
			progress := startMeter(c.Context(), c.ErrOrStderr())
			defer progress.close()
			options.Progress = progress.image
			changed := false
			result, err := deploy.Install(c.Context(), deploy.InstallOptions{
				Device: device, Image: source, Options: options, Config: configuration, Firmware: firmware, Extra: flags.cmdline,
				Progress: progress.deploy,
				Confirm: func(p deploy.Plan) (bool, error) {
					progress.pause()
					printPlan(c.OutOrStdout(), p)
					if dryRun || yes {
						changed = !dryRun
						return !dryRun, nil
					}
					ok, err := typed(c.Context(), c.InOrStdin(), c.ErrOrStderr(), p.Device.Path)
					changed = ok
					return ok, err
				},
			})
			progress.close()
			if dryRun && errors.Is(err, deploy.ErrDeclined) {
				return nil
			}
			if err != nil {
				left := "nothing was changed"
				if changed {
					left = device + " boots nothing now; the same command starts again from the beginning"
				}
				return osError(interrupted(err, left))
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: image %s is installed; restart the machine from it\n", device, imageName(result.Identity.Version, result.Identity.ID))
			return err
		},
	}
	flags.add(c)
	c.Flags().StringVar(&device, "device", "", "the whole disk, as /dev/sda or /dev/disk/by-id/…")
	c.Flags().StringVar(&source, "source", "", "the image (REF)")
	complete(c, "source", completeReference)
	complete(c, "device", completeDisk)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "show the plan and change nothing")
	return c
}

func printPlan(w io.Writer, p deploy.Plan) {
	fmt.Fprintf(w, "%s: %s", p.Device.Path, bytesText(p.Device.Size))
	if p.Device.Model != "" {
		fmt.Fprintf(w, ", %s", p.Device.Model)
	}
	fmt.Fprintln(w)
	if len(p.Device.Holds) == 0 {
		fmt.Fprintln(w, "  holds nothing that is known")
	}
	for _, what := range p.Device.Holds {
		fmt.Fprintln(w, "  WILL BE LOST:", what)
	}
	fmt.Fprintf(w, "gets image %s:\n", imageName(p.Identity.Version, p.Identity.ID))
	for i, part := range p.Partitions {
		fmt.Fprintf(w, "  %d %-11s %-15s %s\n", i+1, part.Name, part.Label, bytesText(part.Size))
	}
}

// completeDisk offers the whole disks of this machine.
func completeDisk(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	found, _ := os.ReadDir("/sys/block") // nothing to offer
	var disks []string
	for _, d := range found {
		_, err := os.Stat(filepath.Join("/sys/block", d.Name(), "device"))
		if err == nil && !strings.HasPrefix(d.Name(), "sr") {
			disks = append(disks, "/dev/"+d.Name())
		}
	}
	return disks, cobra.ShellCompDirectiveNoFileComp
}
