package vpn

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/muster-edge/muster/p2p"
)

// LoadKey returns the WireGuard private key kept in path and makes it on first
// use. A key that cannot be read is an error and never replaced: a new key
// would silently cut this node off from everybody who knows the old one.
func LoadKey(path string) (wgtypes.Key, error) {
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		key, err := wgtypes.ParseKey(strings.TrimSpace(string(text)))
		if err != nil {
			return wgtypes.Key{}, fmt.Errorf("read WireGuard key %s: not a base64 key of 32 bytes; remove the file to make a new key", path)
		}
		return key, nil
	case !errors.Is(err, fs.ErrNotExist):
		return wgtypes.Key{}, fmt.Errorf("read WireGuard key: %w", err)
	}
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("make WireGuard key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return wgtypes.Key{}, fmt.Errorf("make WireGuard key: %w", err)
	}
	if err := p2p.WriteFile(path, []byte(key.String()+"\n"), 0o600); err != nil {
		return wgtypes.Key{}, fmt.Errorf("write WireGuard key: %w", err)
	}
	return key, nil
}
