package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// DefaultModules reach the disks that machines have. What the kernel lacks or has built in is left out; softdog is loaded only where there is
// no other watchdog.
var DefaultModules = []string{
	"virtio_pci", "virtio_blk", "virtio_scsi", "nvme", "ahci", "ata_piix", "sd_mod", "xhci_pci", "ehci_pci", "usb_storage", "uas", "mmc_block", "sdhci_pci",
	"sdhci_acpi", "hv_storvsc", "vmw_pvscsi", "xen_blkfront", "loop", "overlay", "squashfs", "ext4", "crc32c_generic", "crc32c_intel",
	"i6300esb", "iTCO_wdt", "sp5100_tco", softdog,
}

// ErrNoKernel is returned for a tree without exactly one kernel's modules.
var ErrNoKernel = errors.New("not exactly one kernel in /usr/lib/modules")

// InitrdOptions says what goes into an initramfs.
type InitrdOptions struct {
	Init    string   // path of the muster-init program
	Root    string   // the image's tree
	Kernel  string   // version; empty for the only one in Root
	Modules []string // names; nil for [DefaultModules]
}

// WriteInitrd writes the initramfs for the kernel in a tree: muster-init, the modules it needs, and nothing else. The same input gives the same
// bytes.
func WriteInitrd(w io.Writer, o InitrdOptions) error {
	init, err := os.ReadFile(o.Init)
	if err != nil {
		return fmt.Errorf("initrd: %w", err)
	}
	if !bytes.HasPrefix(init, []byte("\x7fELF")) {
		return fmt.Errorf("initrd: %s is no program", o.Init)
	}
	dir, err := modulesDir(o.Root, o.Kernel)
	if err != nil {
		return fmt.Errorf("initrd: %w", err)
	}
	names := o.Modules
	if names == nil {
		names = DefaultModules
	}
	modules, err := resolveModules(dir, names)
	if err != nil {
		return fmt.Errorf("initrd: %w", err)
	}
	out, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("initrd: %w", err)
	}
	archive := &cpio{w: out}
	for _, d := range []string{"dev", "modules", "proc", "run", "sys", "sysroot"} {
		archive.dir(d)
	}
	archive.device("dev/console", 0o600, 5, 1)
	archive.device("dev/null", 0o666, 1, 3)
	archive.file("init", 0o755, init)
	var list strings.Builder
	for _, m := range modules {
		data, err := os.ReadFile(filepath.Join(dir, m))
		if err != nil {
			return fmt.Errorf("initrd: %w", err)
		}
		name := "modules/" + path.Base(m)
		archive.file(name, 0o644, data)
		list.WriteString("/" + name + "\n")
	}
	archive.file("modules.list", 0o644, []byte(list.String()))
	archive.end()
	if err := errors.Join(archive.err, out.Close()); err != nil {
		return fmt.Errorf("initrd: %w", err)
	}
	return nil
}

func modulesDir(root, version string) (string, error) {
	all := filepath.Join(root, "usr/lib/modules")
	if version != "" {
		return filepath.Join(all, version), nil
	}
	entries, err := os.ReadDir(all)
	if err != nil {
		return "", err
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !e.IsDir() })
	if len(entries) != 1 {
		return "", fmt.Errorf("%w: %d in %s", ErrNoKernel, len(entries), all)
	}
	return filepath.Join(all, entries[0].Name()), nil
}

// resolveModules returns the files of the modules and of all that they need, in the order to load them. The files are below dir, as
// modules.dep(5) has them.
func resolveModules(dir string, names []string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	files, needs := map[string]string{}, map[string][]string{}
	for _, line := range strings.Split(string(data), "\n") {
		file, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		files[moduleName(file)] = file
		needs[file] = strings.Fields(rest)
	}
	soft, err := softDependencies(dir)
	if err != nil {
		return nil, err
	}
	var ordered []string
	seen := map[string]bool{}
	var add func(file string) error
	add = func(file string) error {
		if seen[file] {
			return nil
		}
		seen[file] = true
		if !strings.HasSuffix(file, ".ko") {
			return fmt.Errorf("module %s is compressed, the initramfs cannot load it", file)
		}
		for _, s := range soft[moduleName(file)] {
			if f, ok := files[s]; ok {
				if err := add(f); err != nil {
					return err
				}
			}
		}
		// modules.dep lists what is needed last first.
		for _, need := range slices.Backward(needs[file]) {
			if err := add(need); err != nil {
				return err
			}
		}
		ordered = append(ordered, file)
		return nil
	}
	for _, name := range names {
		if file, ok := files[strings.ReplaceAll(name, "-", "_")]; ok {
			if err := add(file); err != nil {
				return nil, err
			}
		}
	}
	return ordered, nil
}

// softDependencies reads what modprobe would load before a module (`softdep NAME pre: …`), such as the checksum that ext4 asks for by name.
func softDependencies(dir string) (map[string][]string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "modules.softdep"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	soft := map[string][]string{}
	for _, line := range strings.Split(string(data), "\n") {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "softdep" {
			continue
		}
		pre := false
		for _, w := range words[2:] {
			switch {
			case strings.HasSuffix(w, ":"):
				pre = w == "pre:"
			case pre:
				name := strings.ReplaceAll(words[1], "-", "_")
				soft[name] = append(soft[name], strings.ReplaceAll(w, "-", "_"))
			}
		}
	}
	return soft, nil
}
