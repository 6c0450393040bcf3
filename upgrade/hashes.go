package upgrade

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// hashes returns "HEX64  /path" of every regular file of the tree but those that describe it, sorted by path.
func hashes(ctx context.Context, tree string) (lines []string, err error) {
	var paths []string
	err = filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		if d.IsDir() && (rel == ImageDir || rel == lostAndFound) {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			paths = append(paths, rel)
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	lines = make([]string, len(paths))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, path := range paths {
		group.Go(func() error {
			sum, err := hashFile(ctx, filepath.Join(tree, path))
			lines[i] = hashLine(sum, "/"+path)
			return err
		})
	}
	return lines, group.Wait()
}

// hashLine is one of sha256sum. Names may hold a newline: such a line is marked, and the name escaped.
func hashLine(sum []byte, name string) string {
	mark := ""
	if strings.ContainsAny(name, "\\\n") {
		mark, name = "\\", strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(name)
	}
	return fmt.Sprintf("%s%x  %s", mark, sum, name)
}

func hashFile(ctx context.Context, path string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return h.Sum(nil), nil
}

// verifyTree compares the tree with its own hashes; ErrDamaged names the first file that differs.
func verifyTree(ctx context.Context, tree string) error {
	want, err := os.ReadFile(filepath.Join(tree, ImageDir, fileHashes))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	got, err := hashes(ctx, tree)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if bytes.Equal(want, []byte(text(got))) {
		return nil
	}
	listed := strings.Split(strings.TrimSuffix(string(want), "\n"), "\n")
	for _, line := range listed {
		if !slices.Contains(got, line) {
			return fmt.Errorf("%w: %s is missing or changed", ErrDamaged, path(line))
		}
	}
	for _, line := range got {
		if !slices.Contains(listed, line) {
			return fmt.Errorf("%w: %s is not of the image", ErrDamaged, path(line))
		}
	}
	return fmt.Errorf("%w: its list of files is out of order", ErrDamaged)
}

func path(line string) string {
	_, name, _ := strings.Cut(line, "  ")
	return name
}

func text(lines []string) string { return strings.Join(lines, "\n") + "\n" }
