package upgrade

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Drift is a path that neither the image nor the configuration explains.
type Drift struct {
	Path   string `json:"path"`
	Change string `json:"change"` // added, changed or removed
}

// explained are the paths that Muster, systemd and Kubernetes write on every machine, and what lies below them.
var explained = []string{
	"/etc/machine-id", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/mtab", "/etc/adjtime", "/etc/.updated", "/etc/.pwd.lock",
	"/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/ssh/ssh_host_", "/etc/rancher/", "/etc/cni/", "/etc/muster/", "/etc/systemd/system/k3s",
	"/oem/grubenv", "/oem/muster/", "/oem/lost+found/",
}

// Drift compares /etc as it is with the image that runs, and names what is in /oem besides cloud-config. What the machine's
// own cloud-config wrote to /etc is not told apart yet from what a person wrote: both are listed.
func (m *Machine) Drift(ctx context.Context) (found []Drift, err error) {
	boot, err := m.Booted()
	if err != nil {
		return nil, err
	}
	device := m.StateDevice
	if boot.Slot == Recovery {
		device = m.RecoveryDevice
	}
	err = withVolume(device, func(v volume) error {
		file, err := m.running(v, boot)
		if err != nil {
			return err
		}
		return withSlot(file, false, func(image string) error {
			found, err = compareTrees(ctx, filepath.Join(image, "etc"), filepath.Join(m.Root, "etc"), "/etc")
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("compare with the image: %w", err)
	}
	inOEM, err := compareTrees(ctx, "", m.OEM, "/oem")
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", m.OEM, err)
	}
	found = slices.DeleteFunc(append(found, inOEM...), func(d Drift) bool {
		extension := filepath.Ext(d.Path)
		configuration := filepath.Dir(d.Path) == "/oem" && (extension == ".yaml" || extension == ".yml")
		return configuration || slices.ContainsFunc(explained, func(p string) bool { return strings.HasPrefix(d.Path, p) })
	})
	return found, nil
}

// running returns the slot file with the image that runs: an upgrade moves it while it runs.
func (m *Machine) running(v volume, boot Boot) (string, error) {
	for _, slot := range []string{boot.Slot, Passive} {
		if id, err := ReadSlot(v.path(slot)); err == nil && id.ID == boot.Image {
			return v.path(slot), nil
		}
	}
	return "", fmt.Errorf("%w: no slot holds the running image %s", ErrDamaged, boot.Image)
}

// compareTrees lists how the files and links of tree differ from those of base; an empty base holds nothing.
func compareTrees(ctx context.Context, base, tree, name string) (found []Drift, err error) {
	was, err := leaves(ctx, base)
	if err != nil {
		return nil, err
	}
	is, err := leaves(ctx, tree)
	if err != nil {
		return nil, err
	}
	for path, content := range is {
		before, ok := was[path]
		switch {
		case !ok:
			found = append(found, Drift{filepath.Join(name, path), "added"})
		case !bytes.Equal(before, content):
			found = append(found, Drift{filepath.Join(name, path), "changed"})
		}
	}
	for path := range was {
		if _, ok := is[path]; !ok {
			found = append(found, Drift{filepath.Join(name, path), "removed"})
		}
	}
	slices.SortFunc(found, func(a, b Drift) int { return strings.Compare(a.Path, b.Path) })
	return found, nil
}

// leaves returns the hash of each regular file, and the target of each link.
func leaves(ctx context.Context, tree string) (map[string][]byte, error) {
	all := map[string][]byte{}
	if tree == "" {
		return all, nil
	}
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		switch {
		case d.Type().IsRegular():
			all[rel], err = hashFile(ctx, path)
		case d.Type()&fs.ModeSymlink != 0:
			var target string
			target, err = os.Readlink(path)
			all[rel] = []byte("-> " + target)
		}
		return err
	})
	return all, err
}
