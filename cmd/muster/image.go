package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/upgrade/image"
)

func newImageCommand() *cobra.Command {
	parent := &cobra.Command{
		Use: "image", Short: "Check, make and look into operating system images",
		Long: `An image is a container image that holds a whole root file system, its kernel and its
initrd. Wherever a command takes an image, REF is one of
` + referenceForms,
		Example: `  muster image check dir:build/root
  muster image pack --root build/root --version v7 --out build/image
  muster image inspect oci:registry.example/box:v7`,
	}
	parent.AddCommand(newImageCheckCommand(), newImagePackCommand(), newImageInspectCommand(), newInitrdCommand())
	return parent
}

func newImageCheckCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "check REF", Args: cobra.ExactArgs(1),
		Short: "Name everything that an image lacks to be booted by Muster",
		Long: `Name everything that an image lacks to be booted by Muster: kernel, initrd, modules,
PID 1, the agent, os-release, boot loader, directories. One line for each, exit code 1
if there is one. A dir: is looked at where it is; others are unpacked into a temporary
folder (TMPDIR), which takes root.`,
		Example: `  muster image check dir:build/root
  muster image check oci:registry.example/box:v7 --key cosign.pub`,
	}
	aboutImage(c, func(at opened) error {
		root, isDir := strings.CutPrefix(at.ref, "dir:")
		if !isDir {
			tmp, err := os.MkdirTemp("", "muster-check-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(tmp)
			root = filepath.Join(tmp, "root")
			if err := at.Unpack(c.Context(), root, at.progress.image); err != nil {
				return osError(interrupted(err, "nothing was written"))
			}
		}
		at.progress.close()
		return reportMissing(c, at.ref, image.Check(root, at.options.Platform), at.inJSON)
	})
	return c
}

// opened is the image that a command is about.
type opened struct {
	*image.Image
	ref      string
	options  image.Options
	progress *meter
	inJSON   bool
}

// aboutImage makes c a command about the image that its argument names.
func aboutImage(c *cobra.Command, do func(opened) error) {
	asJSON := output(c)
	options := sourceFlags(c)
	platformFlag(c)
	c.ValidArgsFunction = completeOneReference
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		at := opened{ref: args[0]}
		if at.inJSON, err = asJSON(); err != nil {
			return err
		}
		if at.options, err = options(); err != nil {
			return err
		}
		if _, err := image.Parse(at.ref); err != nil {
			return usage(err)
		}
		at.progress = startMeter(c.Context(), c.ErrOrStderr())
		defer at.progress.close()
		at.options.Progress = at.progress.image
		at.progress.report("look at "+at.ref, 0, 0)
		if at.Image, err = openImage(c, at.ref, at.options); err != nil {
			return osError(interrupted(err, "nothing was written"))
		}
		defer func() { err = errors.Join(err, at.Close()) }()
		return do(at)
	}
}

// reportMissing prints what is missing; that something is makes the exit code 1.
func reportMissing(c *cobra.Command, ref string, missing []image.Missing, inJSON bool) error {
	if inJSON {
		if missing == nil {
			missing = []image.Missing{}
		}
		if err := printIndented(c, missing); err != nil {
			return err
		}
	} else {
		for _, m := range missing {
			fmt.Fprintln(c.OutOrStdout(), m)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s cannot be booted by Muster: %d missing", ref, len(missing))
	}
	if !inJSON {
		fmt.Fprintf(c.OutOrStdout(), "%s: complete\n", ref)
	}
	return nil
}

func printIndented(c *cobra.Command, what any) error {
	e := json.NewEncoder(c.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(what)
}

func newImagePackCommand() *cobra.Command {
	var o image.PackOptions
	c := &cobra.Command{
		Use: "pack --root DIR --out LAYOUT", Args: cobra.NoArgs,
		Short: "Make an image of a root tree",
		Long: `Make an image of a root tree: an OCI layout that crane, skopeo and oras push to any
registry, and that muster reads as ocifile:LAYOUT. The same tree gives the same digest;
times are cut to SOURCE_DATE_EPOCH (0 if it is not set). An image for the same platform
that the layout lists is replaced, others stay. The digest is printed.`,
		Example: `  muster image pack --root build/root --version v7 --out build/image --tar box-v7.tar`,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Root == "" || o.Out == "" {
				return usage(errors.New("--root and --out are needed; see `muster image pack --help`"))
			}
			o.Platform = c.Flag("platform").Value.String()
			digest, err := image.Pack(c.Context(), o)
			if err != nil {
				return osError(interrupted(err, "the image was not made"))
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), digest)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&o.Root, "root", "", "the tree")
	f.StringVar(&o.Out, "out", "", "OCI layout folder to write")
	for _, folder := range []string{"root", "out"} {
		complete(c, folder, onlyFolders)
	}
	f.StringVar(&o.Tar, "tar", "", "write the image into this tar as well")
	f.StringVar(&o.Version, "version", "", "what people see (default: IMAGE_VERSION of the tree's os-release)")
	platformFlag(c)
	f.StringToStringVar(&o.Labels, "label", nil, "KEY=VALUE of the image's configuration; may be repeated")
	return c
}

func newImageInspectCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "inspect REF", Args: cobra.ExactArgs(1),
		Short: "Print an image's identity, version, platform and size, without pulling its layers",
		Long: `Print an image's identity, version, platform and size on disk. Layers are not pulled: the
size is exact for what muster image pack made and for trees, else three times the
download. With --key the signature is checked.`,
		Example: `  muster image inspect oci:registry.example/box:v7 -o json`,
	}
	aboutImage(c, func(at opened) error {
		found := struct {
			Ref string `json:"ref"`
			image.Identity
			Bytes    int64 `json:"bytes"`
			Verified bool  `json:"verified"`
		}{at.ref, at.Identity(), at.Bytes(), at.options.Key != nil}
		at.progress.close()
		if at.inJSON {
			return printIndented(c, found)
		}
		verified := "no: without --key nobody looked"
		if found.Verified {
			verified = "yes, the signature is valid under the key"
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "id        %s\nversion   %s\nplatform  %s\nsize      %s\nverified  %s\n",
			found.ID, found.Version, found.Platform, bytesText(found.Bytes), verified)
		return err
	})
	return c
}
