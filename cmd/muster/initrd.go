package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/upgrade/boot"
)

// newInitrdCommand is `muster image initrd`.
func newInitrdCommand() *cobra.Command {
	var o boot.InitrdOptions
	var out string
	c := &cobra.Command{
		Use:   "initrd --root DIR --out FILE",
		Short: "Make the initramfs of an image's tree: muster-init and the modules it needs",
		Long: `Make the initramfs of an image's tree: muster-init, which finds the slot and starts what is
in it, the modules that reach disks and watchdogs, and nothing else. The same tree gives
the same bytes. An image needs it at /boot/initrd.`,
		Example: `  muster image initrd --root build/root --out build/root/boot/initrd
  muster image initrd --root build/root --out initrd --modules virtio_blk,ext4,loop`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if o.Root == "" || out == "" {
				return usage(errors.New("--root and --out are needed; see `muster image initrd --help`"))
			}
			if o.Init == "" {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				o.Init = filepath.Join(filepath.Dir(self), "muster-init")
			}
			if _, err := os.Stat(o.Init); err != nil {
				return usage(fmt.Errorf("find muster-init: %w; --init FILE says where it is", err))
			}
			return writeInitrd(out, o)
		},
	}
	c.Flags().StringVar(&o.Root, "root", "", "the tree, with its modules in usr/lib/modules")
	c.Flags().StringVar(&out, "out", "", "the file to write")
	complete(c, "root", onlyFolders)
	c.Flags().StringVar(&o.Init, "init", "", "the muster-init program (default: beside this program)")
	c.Flags().StringVar(&o.Kernel, "kernel", "", "version of the kernel (default: the only one in the tree)")
	c.Flags().StringSliceVar(&o.Modules, "modules", nil, "names of the modules (default: what reaches disks and watchdogs)")
	return c
}

// writeInitrd writes aside: a build that is cut off must not leave half an initrd.
func writeInitrd(out string, o boot.InitrdOptions) error {
	f, err := os.Create(out + ".new")
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	err = boot.WriteInitrd(w, o)
	if err = errors.Join(err, w.Flush(), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(out+".new"))
	}
	if err := os.Rename(out+".new", out); err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	return nil
}
