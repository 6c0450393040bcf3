package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Prune removes every blob from a cache (Options.Cache): once an image is in a slot nobody needs its blobs. It fails while
// another process pulls into the cache. A cache that is not there is empty.
func Prune(dir string) error {
	c := &cache{dir: dir}
	unlock, err := c.lock()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	defer unlock()
	for _, sub := range []string{"blobs/sha256", "partial"} {
		blobs, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("prune image cache: %w", err)
		}
		for _, b := range blobs {
			if err := os.Remove(filepath.Join(dir, sub, b.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("prune image cache: %w", err)
			}
		}
	}
	return nil
}
