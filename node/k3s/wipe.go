package k3s

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// wiped is what ties a node to a cluster (DESIGN §6): datastore, server
// certificates and credentials, agent certificates, the node password.
var wiped = []string{
	dataDir + "/server/db", dataDir + "/server/tls", dataDir + "/server/cred", dataDir + "/server/token",
	dataDir + "/server/agent-token", dataDir + "/server/node-token", dataDir + "/server/manifests",
	dataDir + "/agent", "/etc/rancher/node", adminKubeconfig,
}

// storage holds the local volumes of pods.
const storage = dataDir + "/storage"

// wipe removes what ties the node to its cluster and moves local volumes aside.
// It is idempotent: what is gone already is no error.
func wipe(root string, now time.Time) (kept string, err error) {
	var all error
	for _, path := range wiped {
		all = errors.Join(all, os.RemoveAll(root+path))
	}
	if all != nil {
		return "", fmt.Errorf("wipe K3s: %w", all)
	}
	entries, err := os.ReadDir(root + storage)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("wipe K3s: %w", err)
	}
	kept = filepath.Join(dataDir, "storage-"+now.UTC().Format("20060102T150405Z"))
	if err := os.Rename(root+storage, root+kept); err != nil {
		return "", fmt.Errorf("wipe K3s: keep local volumes: %w", err)
	}
	return kept, nil
}
