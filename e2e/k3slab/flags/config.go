package flags

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	defaultConfig = "/etc/rancher/k3s/config.yaml"
	maxConfigSize = 1 << 20
)

// readConfig merges the configuration file and its drop-ins below the command
// line. A file that was asked for by name must exist, the default one need not.
func (o *Options) readConfig(getenv func(string) string) error {
	base := o.Get("config", getenv(environment["config"]))
	asked := base != ""
	if !asked {
		base = defaultConfig
	}
	drops, err := dropIns(base + ".d")
	if err != nil {
		return err
	}
	merged := map[string][]string{}
	for _, path := range append([]string{base}, drops...) {
		b, err := readLimited(path)
		if errors.Is(err, fs.ErrNotExist) && path == base && !asked {
			continue
		}
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		if err := mergeConfig(merged, b); err != nil {
			return fmt.Errorf("configuration %s: %w", path, err)
		}
	}
	for name, v := range merged {
		if kindOf(name) == unknown {
			o.warn(fmt.Sprintf("unknown flag --%s found in the configuration, skipping", name))
			continue
		}
		if len(o.values[name]) == 0 {
			o.values[name] = v
		}
	}
	return nil
}

// dropIns lists the YAML files of a folder in the order in which they apply.
func dropIns(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if ext := strings.ToLower(filepath.Ext(e.Name())); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	sort.Strings(paths)
	return paths, nil
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err == nil && len(b) > maxConfigSize {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxConfigSize)
	}
	return b, err
}

// mergeConfig lays one file over what the files before it said. A key with a
// trailing + appends to the list so far, any other key replaces it.
func mergeConfig(into map[string][]string, b []byte) error {
	var doc map[string]any
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return err
	}
	keys := make([]string, 0, len(doc))
	for k := range doc {
		keys = append(keys, k)
	}
	sort.Strings(keys) // "k" before "k+", should one file hold both
	for _, key := range keys {
		name, appends := strings.CutSuffix(key, "+")
		if full, ok := aliases[name]; ok {
			name = full
		}
		var values []string
		list, ok := doc[key].([]any)
		if !ok {
			list = []any{doc[key]}
		}
		for _, item := range list {
			s, err := scalar(item)
			if err != nil {
				return fmt.Errorf("key %q: %w", key, err)
			}
			values = append(values, s)
		}
		if appends {
			values = append(into[name], values...)
		}
		into[name] = values
	}
	return nil
}

func scalar(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	}
	return "", errors.New("neither a scalar nor a list of scalars")
}
