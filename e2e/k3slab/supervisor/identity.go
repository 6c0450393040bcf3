package supervisor

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/muster-edge/muster/e2e/k3slab/pki"
)

// ReadIdentity returns the BootstrapFiles below dir by name.
func ReadIdentity(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range BootstrapFiles {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("bootstrap data: %w", err)
		}
		files[name] = content
	}
	return files, nil
}

// WriteIdentity writes what ReadIdentity returned below dir, and nothing else.
func WriteIdentity(dir string, files map[string][]byte) error {
	for name := range files {
		if !slices.Contains(BootstrapFiles, name) {
			return fmt.Errorf("bootstrap data: unexpected file %q", name)
		}
	}
	// In order, the file that marks a folder as bootstrapped last.
	for _, name := range slices.Backward(BootstrapFiles) {
		content, ok := files[name]
		if !ok {
			return fmt.Errorf("bootstrap data: %s is missing", name)
		}
		mode := fs.FileMode(0o600)
		if filepath.Ext(name) == ".crt" {
			mode = 0o644
		}
		if err := pki.WriteFile(filepath.Join(dir, name), content, mode); err != nil {
			return err
		}
	}
	return nil
}
