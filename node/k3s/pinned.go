package k3s

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// maxManifest bounds a downloaded manifest in bytes; etcd holds no object above
// 1.5 MiB.
const maxManifest = 2 << 20

// parsePinned cuts "URL#sha256=HEX". The checksum stands where it is never sent
// to the server.
func parsePinned(text string) (address string, sum []byte, err error) {
	address, fragment, _ := strings.Cut(text, "#")
	digits, pinned := strings.CutPrefix(fragment, "sha256=")
	if sum, err = hex.DecodeString(digits); !pinned || err != nil || len(sum) != sha256.Size {
		return "", nil, errors.New("it does not end in #sha256= and 64 hexadecimal digits")
	}
	return address, sum, nil
}

// pinnedManifest returns what a pinned URL names, from the disk if it was
// downloaded before.
func (d *Driver) pinnedManifest(ctx context.Context, pinned string) ([]byte, error) {
	address, want, err := parsePinned(pinned)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(d.opts.DownloadDir, "manifests", hex.EncodeToString(want)+".yaml")
	if text, err := os.ReadFile(path); err == nil && sha256.Sum256(text) == [sha256.Size]byte(want) {
		return text, nil
	}
	from := downloader{client: d.opts.Client, stall: stallTimeout, max: maxManifest}
	if err := from.fetch(ctx, address, want, path); err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err // without the URL, which may carry a password
		}
		return nil, fmt.Errorf("download: %w", err)
	}
	return os.ReadFile(path)
}
