package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/deploy"
	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/upgrade/image"
)

func newDeployCommand() *cobra.Command {
	parent := &cobra.Command{
		Use: "deploy", Example: "  muster deploy disk --image oci:registry.example/site:v1.2 --config site.yaml --out disk.raw",
		Short: "Turn an image into something a machine boots",
		Long: `Turn an image into something a machine boots. Nothing is booted to make it, and the
boot loader comes from the image.

To put an image on the disk of the machine you sit at, see ` + "`muster install`" + `.`,
	}
	parent.AddCommand(newDeployDiskCommand())
	return parent
}

// deployFlags are what says which image, with which configuration, for which firmware.
type deployFlags struct {
	config, firmware, cmdline string
	options                   func() (image.Options, error)
}

func (f *deployFlags) add(c *cobra.Command) {
	f.options = sourceFlags(c)
	platformFlag(c)
	c.Flags().StringVar(&f.config, "config", "", "cloud-config that the machine gets as /oem/90_custom.yaml (\"-\" is standard input)")
	c.Flags().StringVar(&f.firmware, "firmware", string(deploy.FirmwareBoth), "what starts the machine: bios, uefi or both")
	c.Flags().StringVar(&f.cmdline, "cmdline", "", "appended to every kernel command line")
	complete(c, "firmware", cobra.FixedCompletions([]string{"bios", "uefi", "both"}, cobra.ShellCompDirectiveNoFileComp))
}

// read returns what the flags name; every mistake is found before anything is fetched or written.
func (f *deployFlags) read(c *cobra.Command, reference string) (options image.Options, configuration []byte, firmware deploy.Firmware, err error) {
	if _, err = image.Parse(reference); err != nil {
		return options, nil, "", usage(err)
	}
	if firmware, err = deploy.ParseFirmware(f.firmware); err != nil {
		return options, nil, "", usage(fmt.Errorf("--firmware: %w", err))
	}
	if options, err = f.options(); err != nil {
		return options, nil, "", err
	}
	if f.config != "" {
		name := f.config
		if name == "-" {
			name = "standard input"
			configuration, err = io.ReadAll(io.LimitReader(c.InOrStdin(), 2<<20))
		} else {
			configuration, err = os.ReadFile(name)
		}
		if err != nil {
			return options, nil, "", usage(fmt.Errorf("read configuration: %w", err))
		}
		warnings, err := config.Validate(name, configuration, config.Options{CheckToken: checkToken})
		if err != nil {
			return options, nil, "", invalid(err)
		}
		for _, w := range warnings {
			fmt.Fprintln(c.ErrOrStderr(), "warning:", w)
		}
		policy, err := policyOfText(c, configuration, options.Key == nil)
		if err != nil {
			return options, nil, "", err
		}
		if options.Key == nil {
			options.Key = policy.key
		}
		options.Insecure = options.Insecure || policy.insecure
	}
	return options, configuration, firmware, nil
}

func newDeployDiskCommand() *cobra.Command {
	var flags deployFlags
	var reference, out, size string
	c := &cobra.Command{
		Use: "disk --image REF --out FILE", Args: cobra.NoArgs,
		Short: "Make a bootable raw disk from an image",
		Long: `Make a bootable raw disk from an image: for a virtual machine, or to be written to a
stick or a disk. It starts by BIOS and by UEFI and holds the image three times
(active, passive, recovery). The file is complete or not there; what is being
made is FILE.partial. Needs root, for loop devices and mounts.

REF is one of
` + referenceForms + `
When the configuration names a cosign-key, or --key does, an image without a valid
signature is refused (exit code 4).

Without --size it is as small as it can be; the last partition grows to the disk
on the first boot.`,
		Example: `  muster deploy disk --image oci:registry.example/site:v1.2 --config site.yaml --out disk.raw
  muster deploy disk --image ocifile:build/os/muster-os.tar --config site.yaml --out disk.raw --size 8G
  dd if=disk.raw of=/dev/sdX bs=4M conv=fsync`,
		RunE: func(c *cobra.Command, _ []string) error {
			if reference == "" || out == "" {
				return usage(errors.New("which image, and where to? --image REF --out FILE; see `muster deploy disk --help`"))
			}
			bytes, err := parseSize(size)
			if err != nil {
				return usage(err)
			}
			options, configuration, firmware, err := flags.read(c, reference)
			if err != nil {
				return err
			}
			progress := startMeter(c.Context(), c.ErrOrStderr())
			options.Progress = progress.image
			progress.report("look at "+reference, 0, 0)
			result, err := deploy.Disk(c.Context(), deploy.DiskOptions{
				Image: reference, Options: options, Config: configuration, Out: out, Firmware: firmware, Size: bytes, Extra: flags.cmdline,
				Progress: progress.deploy,
			})
			progress.close()
			if err != nil {
				return osError(interrupted(err, out+" is what it was before"))
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s, image %s\n", out, bytesText(result.Size), imageName(result.Identity.Version, result.Identity.ID))
			return err
		},
	}
	flags.add(c)
	c.Flags().StringVar(&reference, "image", "", "the image (REF)")
	complete(c, "image", completeReference)
	c.Flags().StringVar(&out, "out", "", "file to make; replaced when the new one is complete")
	c.Flags().StringVar(&size, "size", "", "size of the disk, as 8G or 6000M; empty is as small as it can be")
	return c
}

// parseSize reads 8G, 6000M or bytes; empty is 0.
func parseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	shift := map[byte]int{'K': 10, 'M': 20, 'G': 30, 'T': 40}[s[len(s)-1]]
	digits := s
	if shift > 0 {
		digits = s[:len(s)-1]
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > (1<<50)>>shift || strings.HasPrefix(digits, "+") {
		return 0, fmt.Errorf("--size %q: want a number with K, M, G or T, as 8G", s)
	}
	return n << shift, nil
}
