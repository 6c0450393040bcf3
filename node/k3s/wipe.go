package k3s

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// wiped is what ties a node to a cluster (DESIGN §6): datastore, server
// certificates and credentials, the node password, and the tokens in our own
// configuration. Manifests stay: they are the user's, or K3s's own.
var wiped = []string{
	configFile, adminKubeconfig, "/etc/rancher/node",
	dataDir + "/server/db", dataDir + "/server/tls", dataDir + "/server/cred", dataDir + "/server/token",
	dataDir + "/server/agent-token", dataDir + "/server/node-token", cniState,
}

const (
	// agentDir holds the agent's certificates, kubeconfigs and the addresses of
	// its servers, and beside them what ties to no cluster: images.
	agentDir = dataDir + "/agent"
	// cniState is which pod has which address of this node's range, and another
	// cluster gives another range.
	cniState = "/var/lib/cni"
	// storage holds the local volumes of pods; volumes kept from earlier wipes lie
	// beside it, or in it where it is a mount point.
	storage     = dataDir + "/storage"
	storageKept = "storage-"
)

// keptOfAgent are images: the unpacked ones, and those that an airgapped node
// was given as files and could not get again.
var keptOfAgent = map[string]bool{"containerd": true, "images": true}

// wipe removes what ties the node to its cluster and moves local volumes aside.
// It is idempotent: what is gone already is no error, and a wipe that was
// interrupted is finished by the next.
func wipe(root string, now time.Time) (kept string, err error) {
	// First what cannot be made again.
	kept, err = keepVolumes(root, now)
	if err != nil {
		return "", fmt.Errorf("wipe K3s: keep local volumes: %w", err)
	}
	var all error
	for _, path := range wiped {
		all = errors.Join(all, remove(root+path))
	}
	entries, err := os.ReadDir(root + agentDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		all = errors.Join(all, err)
	}
	for _, entry := range entries {
		if !keptOfAgent[entry.Name()] {
			all = errors.Join(all, remove(filepath.Join(root+agentDir, entry.Name())))
		}
	}
	if all != nil {
		return kept, fmt.Errorf("wipe K3s: %w", all)
	}
	return kept, nil
}

// remove is os.RemoveAll but for a mount point, which stays and is empty then.
func remove(path string) error {
	err := os.RemoveAll(path)
	if errors.Is(err, unix.EBUSY) {
		if entries, readErr := os.ReadDir(path); readErr == nil && len(entries) == 0 {
			return nil
		}
	}
	return err
}

func holdsVolumes(root string) bool {
	entries, err := os.ReadDir(root + storage)
	if err != nil {
		return false // none, or nothing that can be said
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), storageKept) {
			return true
		}
	}
	return false
}

// keepVolumes moves the local volumes aside and returns where they are now, ""
// when there are none.
func keepVolumes(root string, now time.Time) (string, error) {
	entries, err := os.ReadDir(root + storage)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var volumes []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), storageKept) {
			volumes = append(volumes, entry.Name())
		}
	}
	if len(volumes) == 0 {
		return "", nil
	}
	name := storageKept + now.UTC().Format("20060102T150405.000Z")
	kept := filepath.Join(dataDir, name)
	err = os.Rename(root+storage, root+kept)
	if err == nil {
		return kept, nil
	}
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EXDEV) {
		return "", err
	}
	// The volumes have a disk of their own, mounted here.
	kept = filepath.Join(storage, name)
	if err := os.Mkdir(root+kept, 0o700); err != nil {
		return "", err
	}
	for _, volume := range volumes {
		if err := os.Rename(filepath.Join(root+storage, volume), filepath.Join(root+kept, volume)); err != nil {
			return "", err
		}
	}
	return kept, nil
}
