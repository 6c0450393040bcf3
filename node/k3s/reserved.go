package k3s

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// reservedFlags are the settings that the site decides (DESIGN §8), by their
// long and short names. A node that sets one by itself would join another
// cluster, under another name, or twice, or hide its API server from the others.
var reservedFlags = map[string]bool{
	"server": true, "s": true,
	"token": true, "t": true, "token-file": true, "agent-token": true, "agent-token-file": true, "cluster-secret": true,
	"cluster-init": true, "cluster-reset": true, "cluster-reset-restore-path": true,
	"node-ip": true, "i": true, "node-external-ip": true, "advertise-address": true, "advertise-port": true,
	"bind-address": true, "https-listen-port": true, "flannel-iface": true,
	"node-name": true, "with-node-id": true,
	"datastore-endpoint": true, "embedded-registry": true,
	"config": true, "c": true, "data-dir": true, "d": true, "write-kubeconfig": true, "o": true, "rootless": true,
	"disable-agent": true, "disable-apiserver": true, "disable-etcd": true,
}

// reservedEnv are the variables by which K3s takes the same settings.
var reservedEnv = map[string]bool{
	"K3S_URL": true, "K3S_TOKEN": true, "K3S_TOKEN_FILE": true, "K3S_AGENT_TOKEN": true, "K3S_AGENT_TOKEN_FILE": true,
	"K3S_CLUSTER_SECRET": true, "K3S_CLUSTER_INIT": true, "K3S_CLUSTER_RESET": true, "K3S_NODE_NAME": true,
	"K3S_CONFIG_FILE": true, "K3S_DATA_DIR": true, "K3S_KUBECONFIG_OUTPUT": true, "K3S_ROOTLESS": true,
	"K3S_DATASTORE_ENDPOINT": true,
}

// reservedEnvNames is reservedEnv in a stable order.
func reservedEnvNames() []string { return slices.Sorted(maps.Keys(reservedEnv)) }

// maxForeignConfig bounds a K3s configuration file that is not ours, in bytes.
const maxForeignConfig = 1 << 20

// argv splits the user's arguments into words. Kairos joins them into one line
// of a unit file, so that "--disable traefik" is two words there, and here too.
func (s Spec) argv() ([]string, error) {
	var all []string
	for i, arg := range s.Args {
		words, err := splitWords(arg)
		if err != nil {
			// The argument itself may hold a secret.
			return nil, fmt.Errorf("k3s argument %d %w", i+1, err)
		}
		all = append(all, words...)
	}
	sans := false
	for _, word := range all {
		if !strings.HasPrefix(word, "-") {
			continue // a value
		}
		name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if reservedFlags[name] {
			return nil, fmt.Errorf("k3s argument %s %w", dashes(name), ErrReserved)
		}
		sans = sans || name == "tls-san"
	}
	if sans && !s.ReplaceArgs {
		// A list on K3s's command line replaces that of its configuration file
		// (docs.k3s.io/installation/configuration#multiple-config-files).
		for _, san := range s.TLSSANs {
			all = append(all, "--tls-san="+san)
		}
	}
	return all, nil
}

func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// splitWords splits at white space outside of single and double quotes, which
// are removed.
func splitWords(line string) ([]string, error) {
	if strings.ContainsAny(line, "\n\r\x00") {
		return nil, errors.New("is not one line")
	}
	var words []string
	var word strings.Builder
	var quote rune
	inside := false
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '"' || c == '\'':
			quote, inside = c, true
		case c == ' ' || c == '\t':
			if inside {
				words = append(words, word.String())
			}
			word.Reset()
			inside = false
		default:
			word.WriteRune(c)
			inside = true
		}
	}
	if quote != 0 {
		return nil, errors.New("has a quote that is not closed")
	}
	if inside {
		words = append(words, word.String())
	}
	return words, nil
}

// checkForeign refuses what other configuration files of K3s decide in the
// site's place. K3s merges them all, so that a forgotten "server:" in one would
// make the first server of a site join elsewhere. root is prepended.
func checkForeign(root string) error {
	files, err := filepath.Glob(root + configDir + "/*.y*ml")
	if err != nil {
		return fmt.Errorf("list K3s configuration: %w", err)
	}
	for _, path := range append(files, root+mainConfig) {
		if path == root+configFile {
			continue
		}
		keys, err := configKeys(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read K3s configuration %s: %w", strings.TrimPrefix(path, root), err)
		}
		for _, key := range keys {
			// "key+" appends to what other files say.
			if name := strings.TrimSuffix(key, "+"); reservedFlags[name] {
				return fmt.Errorf("%s in %s %w", name, strings.TrimPrefix(path, root), ErrReserved)
			}
		}
	}
	return nil
}

// configKeys returns the sorted top-level keys of a YAML file.
func configKeys(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxForeignConfig+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxForeignConfig {
		return nil, fmt.Errorf("more than %d bytes", maxForeignConfig)
	}
	var c map[string]any
	if err := yaml.Unmarshal(text, &c); err != nil {
		// yaml's own message quotes the text, which may hold a secret.
		return nil, errors.New("it is not a YAML mapping")
	}
	return slices.Sorted(maps.Keys(c)), nil
}
