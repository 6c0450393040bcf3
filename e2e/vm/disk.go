package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// NewOverlay makes a qcow2 file that holds what a machine writes, over a base that stays as it is: a raw image or another qcow2.
func NewOverlay(ctx context.Context, base, overlay string) error {
	base, err := filepath.Abs(base)
	if err != nil {
		return fmt.Errorf("overlay %s: %w", overlay, err)
	}
	if _, err := os.Stat(base); err != nil {
		return fmt.Errorf("overlay %s: %w", overlay, err)
	}
	return qemuImg(ctx, "create", "-q", "-f", "qcow2", "-b", base, "-F", diskFormat(base), overlay)
}

// CopyDisk copies an overlay with its snapshots; both have the same base.
func CopyDisk(ctx context.Context, from, to string) error {
	out, err := exec.CommandContext(ctx, "cp", "--sparse=always", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy disk %s: %w: %s", from, err, out)
	}
	return nil
}

// NewDisk makes an empty disk of so many MiB.
func NewDisk(ctx context.Context, path string, mib int) error {
	return qemuImg(ctx, "create", "-q", "-f", diskFormat(path), path, fmt.Sprintf("%dM", mib))
}

// Flatten writes the disk as the machine sees it into one raw file, for tools that know no qcow2.
func Flatten(ctx context.Context, overlay, raw string) error {
	return qemuImg(ctx, "convert", "-O", "raw", overlay, raw)
}

func qemuImg(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "qemu-img", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu-img %s: %w: %s", args[0], err, out)
	}
	return nil
}
