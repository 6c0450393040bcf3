package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/upgrade/image"
)

// Image is what a slot is made from; *image.Image is one.
type Image interface {
	Identity() image.Identity
	Pull(ctx context.Context) error
	Bytes() int64
	Unpack(ctx context.Context, dir string, progress func(image.Progress)) error
}

// SlotOptions say how a slot file is made.
type SlotOptions struct {
	Size     int64                                       // bytes; 0 is SlotSize of the image
	Check    func(tree, platform string) []image.Missing // image.Check, for whoever has not called it; may be nil
	Progress func(image.Progress)                        // may be nil
	Step     func(name string)                           // called after each durable step; may be nil
}

func (o *SlotOptions) step(name string) {
	if o.Step != nil {
		o.Step(name)
	}
}

func (o *SlotOptions) progress(p image.Progress) {
	if o.Progress != nil {
		o.Progress(p)
	}
}

// WriteSlot makes the slot file of an image at path, which must not exist, and reads it back: when it returns, the file's
// bytes are on the disk and what its hashes say. The folder is not synced. When it fails nothing is left at path.
//
// Errors are ErrNoSpace, ErrContract, ErrDamaged, and those of package image.
func WriteSlot(ctx context.Context, img Image, path string, o SlotOptions) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", filepath.Base(path), err)
		}
	}()
	if err := img.Pull(ctx); err != nil {
		return err
	}
	if o.Size == 0 {
		o.Size = SlotSize(img.Bytes())
	}
	if err := allocate(path, o.Size); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	o.step("allocate slot")
	// No journal: nothing ever writes to a slot. No discard: the blocks are ours now, and a full disk was found out.
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", "-E", "nodiscard", path); err != nil {
		return err
	}
	o.step("make file system")
	err = withSlot(path, true, func(dir string) error {
		err := img.Unpack(ctx, dir, func(p image.Progress) {
			o.progress(p)
			o.step("write chunk")
		})
		if err != nil {
			return err
		}
		if o.Check != nil {
			if missing := o.Check(dir, img.Identity().Platform); len(missing) > 0 {
				return contractError(missing)
			}
		}
		return describe(ctx, dir, img.Identity())
	})
	if err != nil {
		return err
	}
	o.step("unmount slot")
	if err := syncPath(path); err != nil {
		return err
	}
	o.step("sync slot")
	o.progress(image.Progress{Step: "read back", Total: img.Bytes()})
	return VerifySlot(ctx, path)
}

// VerifySlot reads every file of a slot through a mount of its own and compares it with the hashes in it (ErrDamaged).
func VerifySlot(ctx context.Context, path string) error {
	// What is in memory says nothing about the disk.
	if f, err := os.Open(path); err == nil {
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // without it the check is only weaker
		_ = f.Close()                                           // only read
	}
	err := withSlot(path, false, func(dir string) error { return verifyTree(ctx, dir) })
	if err != nil {
		return fmt.Errorf("read %s back: %w", filepath.Base(path), err)
	}
	return nil
}

// ReadSlot returns the identity in a slot file.
func ReadSlot(path string) (id image.Identity, err error) {
	err = withSlot(path, false, func(dir string) error {
		id, err = readIdentity(dir)
		return err
	})
	if err != nil {
		return image.Identity{}, fmt.Errorf("read identity of %s: %w", filepath.Base(path), err)
	}
	return id, nil
}

func readIdentity(tree string) (id image.Identity, err error) {
	data, err := os.ReadFile(filepath.Join(tree, ImageDir, fileImage))
	if err == nil {
		err = json.Unmarshal(data, &id)
	}
	if err == nil && id.ID == "" {
		err = errors.New("no id")
	}
	if err != nil {
		return image.Identity{}, fmt.Errorf("%w: identity: %w", ErrDamaged, err)
	}
	return id, nil
}

func contractError(missing []image.Missing) error {
	var list []string
	for _, m := range missing {
		list = append(list, m.String())
	}
	return fmt.Errorf("%w: %s", ErrContract, strings.Join(list, "; "))
}

// allocate makes the file with all its blocks, so that a full disk is found out before anything is written.
func allocate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w: %d MiB wanted", ErrNoSpace, size/mib)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// featureLevel is what an image says that its muster knows (muster features), 0 when it says nothing that makes sense.
func featureLevel(tree string) int {
	data, err := os.ReadFile(filepath.Join(tree, fileFeatures))
	if err != nil {
		return 0
	}
	level, err := strconv.Atoi(string(trim(data)))
	if err != nil || level < 0 {
		return 0
	}
	return level
}

// describe writes identity and hashes into the tree.
func describe(ctx context.Context, tree string, id image.Identity) error {
	root, err := os.OpenRoot(tree) // a link in the image must not lead out of it
	if err != nil {
		return err
	}
	defer root.Close() // only names are looked up in it
	if err := root.MkdirAll(ImageDir, 0o755); err != nil {
		return err
	}
	all, err := hashes(ctx, tree)
	if err != nil {
		return err
	}
	boot := slices.DeleteFunc(slices.Clone(all), func(line string) bool {
		return path(line) != fileKernel && path(line) != fileInitrd
	})
	if len(boot) != 2 {
		return fmt.Errorf("%w: no %s or no %s", ErrContract, fileKernel, fileInitrd)
	}
	// What could end the string or the line in GRUB's language is no part of a version that people see.
	version := strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune("\"$\\`", r) {
			return '_'
		}
		return r
	}, id.Version)
	id.FeatureLevel = featureLevel(tree)
	description, err := json.Marshal(id)
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		fileGRUB:   fmt.Sprintf("set image_id=%s\nset image_version=\"%s\"\n", id.ID, version),
		fileImage:  string(description) + "\n",
		fileBoot:   text(boot),
		fileHashes: text(all),
	} {
		if err := root.WriteFile(filepath.Join(ImageDir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
