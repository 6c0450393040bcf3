package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// DefaultDirs are the directories that make up a configuration, the first weakest.
var DefaultDirs = []string{"/oem", "/usr/local/cloud-config", "/etc/muster"}

// CmdlineFile is where Linux shows the kernel's command line.
const CmdlineFile = "/proc/cmdline"

// maxFiles bounds what one directory may hold; a directory tree mounted by mistake must not hang a boot.
const maxFiles = 1000

// Sources are where a configuration comes from. Later ones win: directories in order (each in alphabetical order of
// path), files in order, the kernel command line, the remote configuration.
type Sources struct {
	Dirs    []string
	Files   []string // named by the operator: each must be there and valid
	Cmdline string   // file that holds the kernel command line; empty: none

	Fetcher Fetcher // nil: a config_url gives a warning and the last good copy
	Memory  Memory  // nil: nothing is remembered

	CheckToken TokenChecker
}

// Load reads, merges and decodes the sources. Mistakes of the operator are an *InvalidError; any other error is the
// disk's or the context's.
func Load(ctx context.Context, src Sources) (*Config, []Warning, error) {
	l := loader{src: src}
	merged, err := l.local()
	if err != nil {
		return nil, l.told(), fmt.Errorf("load configuration: %w", err)
	}
	if err := l.err(); err != nil {
		return nil, l.told(), err
	}
	merged, good := l.remote(ctx, merged)
	if err := ctx.Err(); err != nil {
		return nil, l.told(), fmt.Errorf("load configuration: %w", err)
	}

	d := decoder{report: l.report, config: defaults(), checkToken: src.CheckToken}
	d.decode(merged)
	if len(d.problems) == 0 {
		d.implied()
	}
	if err := d.err(); err != nil {
		return nil, d.told(), err
	}
	for _, r := range good {
		if err := src.Memory.Remember(r.url, r.data); err != nil {
			d.warn(r.origin, "config_url", "the copy for the next start could not be kept: %v", err)
		}
	}
	return d.config, d.told(), nil
}

// loader gathers the sources of one Load.
type loader struct {
	report
	src Sources
}

// local merges directories, files and the command line. The error is the disk's.
func (l *loader) local() (*node, error) {
	merged := &node{kind: kindMap}
	for _, dir := range l.src.Dirs {
		files, err := l.listDir(dir)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			data, err := readFile(file)
			if err != nil {
				return nil, err
			}
			if len(data) <= MaxSize && !HasHeader(data) {
				l.warn(Origin{File: file}, "", "is not read: %s", headerMistake(data))
				continue
			}
			merged = merge(merged, l.sound(file, data))
		}
	}
	for _, file := range l.src.Files {
		data, err := readFile(file)
		if err != nil {
			return nil, err
		}
		merged = merge(merged, l.sound(file, data))
	}
	if l.src.Cmdline != "" {
		data, err := readFile(l.src.Cmdline)
		if err != nil {
			return nil, err
		}
		root := parseCmdline(l.src.Cmdline, string(data), &l.report)
		merged = merge(merged, l.strict(root))
	}
	return merged, nil
}

// sound parses one file and decodes it strictly by itself, so that a mistake is reported where it was made and not
// hidden by a later file. It is nil when the file is refused.
func (l *loader) sound(name string, data []byte) *node {
	return l.strict(parse(name, data, &l.report))
}

func (l *loader) strict(root *node) *node {
	if root == nil {
		return nil
	}
	d := decoder{config: defaults(), checkToken: l.src.CheckToken}
	d.decode(root)
	for _, p := range d.problems {
		l.refuse(p.Origin, p.Key, "%s", p.Text)
	}
	l.unlisted += d.unlisted
	return root // its warnings come again when the whole is decoded, less those of values that a later file replaced
}

// listDir names the YAML files below dir, in alphabetical order of path, and warns of files that look meant and are not.
func (l *loader) listDir(dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case strings.HasPrefix(e.Name(), ".") && path != dir:
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case e.IsDir():
			return nil
		}
		info, err := os.Stat(path) // a link counts as what it leads to
		if err != nil || !info.Mode().IsRegular() {
			return nil //nolint:nilerr // a link that leads nowhere holds no configuration
		}
		if ext := filepath.Ext(path); ext != ".yaml" && ext != ".yml" {
			if startsAsConfig(path) {
				l.warn(Origin{File: path}, "", "is not read: its name does not end in .yaml or .yml")
			}
			return nil
		}
		if files = append(files, path); len(files) > maxFiles {
			return fmt.Errorf("%s: more than %d files", dir, maxFiles)
		}
		return nil
	})
	return files, err
}

func startsAsConfig(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close() // only read
	start := make([]byte, 64)
	n, _ := io.ReadFull(f, start) // a short file is a short start
	return HasHeader(start[:n])
}

// readFile reads at most one byte over the limit, which parse then refuses by name.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}
