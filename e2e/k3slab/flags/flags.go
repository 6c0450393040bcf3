// Package flags understands the command line of K3s: flags in all spellings,
// the configuration file with its drop-in folder, and the environment.
//
// The order of precedence is K3s' own: the command line, then the configuration
// file (K3s rewrites it into arguments), then the environment. A repeatable flag
// on the command line replaces the whole list of the file.
package flags

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Options is a parsed command line.
type Options struct {
	values map[string][]string
	warn   func(string)
}

// Parse reads args, the configuration files that they or the environment name,
// and the environment through getenv. warn receives one sentence for each flag
// that K3s does not know.
func Parse(args []string, getenv func(string) string, warn func(string)) (*Options, error) {
	o := &Options{values: map[string][]string{}, warn: warn}
	if err := o.readArgs(args); err != nil {
		return nil, err
	}
	if err := o.readConfig(getenv); err != nil {
		return nil, err
	}
	for name, variable := range environment {
		if v := getenv(variable); v != "" && len(o.values[name]) == 0 {
			o.values[name] = []string{v}
		}
	}
	for name := range boolFlags {
		if _, err := strconv.ParseBool(o.Get(name, "false")); err != nil {
			return nil, fmt.Errorf("invalid value %q for flag --%s: not a boolean", o.Get(name, ""), name)
		}
	}
	return o, nil
}

// Get returns the last value of a flag, or fallback when it is absent or empty.
func (o *Options) Get(name, fallback string) string {
	if v := o.values[name]; len(v) > 0 && v[len(v)-1] != "" {
		return v[len(v)-1]
	}
	return fallback
}

// Is reports whether a boolean flag is set.
func (o *Options) Is(name string) bool {
	on, err := strconv.ParseBool(o.Get(name, "false"))
	return err == nil && on
}

// List returns every value of a repeatable flag, commas untouched: a label or a
// component's argument may contain them.
func (o *Options) List(name string) []string {
	var out []string
	for _, v := range o.values[name] {
		if v != "" {
			out = append(out, v)
		}
	}
	return out
}

// Split is List with every value split at its commas, for flags such as
// --node-ip and --tls-san.
func (o *Options) Split(name string) []string {
	var out []string
	for _, v := range o.values[name] {
		for _, part := range strings.Split(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, part)
			}
		}
	}
	return out
}

// Token returns --token or the content of --token-file, "" when neither is set.
func (o *Options) Token() (string, error) { return o.secret("token") }

// AgentToken is Token for --agent-token.
func (o *Options) AgentToken() (string, error) { return o.secret("agent-token") }

// DataDir is the absolute path of --data-dir.
func (o *Options) DataDir() (string, error) {
	dir, err := filepath.Abs(o.Get("data-dir", "/var/lib/rancher/k3s"))
	if err != nil {
		return "", fmt.Errorf("resolve --data-dir: %w", err)
	}
	return dir, nil
}

func (o *Options) secret(name string) (string, error) {
	if t := o.Get(name, ""); t != "" {
		return t, nil
	}
	path := o.Get(name+"-file", "")
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read --%s-file: %w", name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (o *Options) readArgs(args []string) error {
	for i := 0; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") {
			return fmt.Errorf("unexpected argument number %d: not a flag", i+1)
		}
		name, v, given := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if full, ok := aliases[name]; ok {
			name = full
		}
		next := i+1 < len(args)
		switch kindOf(name) {
		case boolean:
			if !given {
				v = "true"
			}
		case value:
			if !given {
				if !next {
					return fmt.Errorf("flag needs an argument: --%s", name)
				}
				i++
				v = args[i]
			}
		case unknown:
			o.warn(fmt.Sprintf("unknown flag --%s accepted and ignored", name))
			if !given && next && !strings.HasPrefix(args[i+1], "-") {
				i++
			}
			continue
		}
		o.values[name] = append(o.values[name], v)
	}
	return nil
}
