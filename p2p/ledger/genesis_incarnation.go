package ledger

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/muster-edge/muster/p2p"
)

const (
	incarnationFile  = "incarnation"
	incarnationBytes = 8
)

// Incarnation returns the name of the storage in dir, made on first use: 16
// hexadecimal characters. It is part of the Raft server ID, so a voter whose
// disk was wiped comes back as a new server and cannot vote twice in one term
// (history S5). The directory and everything in it are wiped together.
func Incarnation(dir string) (string, error) {
	path := filepath.Join(dir, incarnationFile)
	raw, err := os.ReadFile(path)
	switch {
	case err == nil:
		s := strings.TrimSpace(string(raw))
		if !validIncarnation(s) {
			return "", fmt.Errorf("read storage incarnation: %s is damaged: wipe the state directory", path)
		}
		return s, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("read storage incarnation: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make storage incarnation: %w", err)
	}
	s := randomHex(incarnationBytes)
	if err := p2p.WriteFile(path, []byte(s+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("make storage incarnation: %w", err)
	}
	return s, nil
}

func validIncarnation(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == incarnationBytes
}
