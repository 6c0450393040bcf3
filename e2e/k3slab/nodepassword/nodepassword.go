// Package nodepassword keeps one node from taking another's name: the first node
// of a name leaves the hash of a password with the cluster, and whoever uses
// that name later must know the password.
//
// The agent keeps its password in /etc/rancher/node/password, outside its data
// directory, as K3s does; a node that loses it stays locked out until its Node
// object is deleted.
package nodepassword

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/muster-edge/muster/e2e/k3slab/pki"
)

// Path is where a node keeps its password.
const Path = "/etc/rancher/node/password"

var (
	// ErrRejected means that the name belongs to a node with another password.
	ErrRejected = errors.New("Node password rejected, duplicate hostname or contents of '" + Path + //nolint:staticcheck // K3s' own words, capital included
		"' may not match server node-passwd entry, try enabling a unique node name with the --with-node-id flag")
	// ErrUnknown is what a Store returns for a node that it holds nothing of.
	ErrUnknown = errors.New("no password recorded")
)

// Store holds the hashes; in a cluster they are secrets.
type Store interface {
	// Hash returns the hash recorded for a node, or ErrUnknown.
	Hash(ctx context.Context, node string) (string, error)
	// Record stores the first hash of a node and fails if there is one.
	Record(ctx context.Context, node, hash string) error
}

// Check admits a node by its password; the first password of a name is recorded.
// The error wraps ErrRejected when the node must not have that name.
func Check(ctx context.Context, store Store, node, password string) error {
	digest := sha256.Sum256([]byte(password))
	hash := hex.EncodeToString(digest[:])
	recorded, err := store.Hash(ctx, node)
	if errors.Is(err, ErrUnknown) {
		if err := store.Record(ctx, node, hash); err != nil {
			return fmt.Errorf("record the password of node %s: %w", node, err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the password hash of node %s: %w", node, err)
	}
	if subtle.ConstantTimeCompare([]byte(recorded), []byte(hash)) != 1 {
		return fmt.Errorf("unable to verify hash for node '%s': %w", node, ErrRejected)
	}
	return nil
}

// Ensure reads a node's own password, or draws and writes one.
func Ensure(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the node password: %w", err)
	}
	if password := strings.TrimSpace(string(b)); password != "" {
		return password, nil
	}
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return "", fmt.Errorf("draw a node password: %w", err)
	}
	password := hex.EncodeToString(secret)
	if err := pki.WriteFile(path, []byte(password+"\n"), 0o600); err != nil {
		return "", err
	}
	return password, nil
}
