package peer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/muster-edge/muster/e2e/bench/lan"
)

// modules are the folders under peers/, each a Go module of its own that pins one peer by its tool directives: their
// dependencies contradict each other, and none of them may come near Muster's.
var modules = []string{"edgevpn", "nebula", "wireguard"}

var buildFlags = []string{"-trimpath", "-ldflags", "-s -w"}

// Binaries is a folder with the programs of all peers.
type Binaries string

// Path returns the path of a program: edgevpn, nebula, nebula-cert or wireguard.
func (b Binaries) Path(program string) string { return filepath.Join(string(b), program) }

// Build builds the peers from the modules under source into a folder of cache that is named for their versions, their
// checksums and the compiler, and returns it at once if it is there. progress is told before work that takes long.
func Build(ctx context.Context, source, cache string, progress func(format string, args ...any)) (Binaries, error) {
	key, err := fingerprint(source)
	if err != nil {
		return "", fmt.Errorf("build peers: %w", err)
	}
	target := filepath.Join(cache, "bench-"+key)
	if _, err := os.Stat(target); err == nil {
		return Binaries(target), nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("build peers: %w", err)
	}
	// Built beside and renamed, so that a folder of this name is always whole, also when two drivers build at once.
	beside, err := os.MkdirTemp(cache, "bench-build-")
	if err != nil {
		return "", fmt.Errorf("build peers: %w", err)
	}
	defer os.RemoveAll(beside) // what is left of it is of no use; nothing to do about a failure
	for _, module := range modules {
		progress("building %s (kept in %s)", module, target)
		arguments := append([]string{"build", "-C", filepath.Join(source, module), "-o", beside + "/"}, append(buildFlags, "tool")...)
		cmd := exec.CommandContext(ctx, "go", arguments...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
		if printed, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build peer %s: %w: %s", module, err, lan.Tail(printed))
		}
	}
	if err := os.Chmod(beside, 0o755); err != nil {
		return "", fmt.Errorf("build peers: %w", err)
	}
	if err := os.Rename(beside, target); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("build peers: %w", err)
	}
	return Binaries(target), nil
}

// Versions returns the version of each peer by the name of its module under source, e.g. "edgevpn": "v0.35.3".
func Versions(source string) (map[string]string, error) {
	paths := map[string]string{
		"edgevpn":   "github.com/mudler/edgevpn",
		"nebula":    "github.com/slackhq/nebula",
		"wireguard": "golang.zx2c4.com/wireguard",
	}
	versions := map[string]string{}
	for module, path := range paths {
		content, err := os.ReadFile(filepath.Join(source, module, "go.mod"))
		if err != nil {
			return nil, fmt.Errorf("read version of peer %s: %w", module, err)
		}
		version, ok := required(string(content), path)
		if !ok {
			return nil, fmt.Errorf("read version of peer %s: its go.mod does not require %s", module, path)
		}
		versions[module] = version
	}
	return versions, nil
}

func required(gomod, path string) (version string, ok bool) {
	for line := range strings.Lines(gomod) {
		fields := strings.Fields(line)
		if i := slices.Index(fields, path); i >= 0 && i+1 < len(fields) {
			return fields[i+1], true
		}
	}
	return "", false
}

func fingerprint(source string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), runtime.GOOS, runtime.GOARCH, buildFlags)
	for _, module := range modules {
		for _, name := range []string{"go.mod", "go.sum"} {
			content, err := os.ReadFile(filepath.Join(source, module, name))
			if err != nil {
				return "", err
			}
			fmt.Fprintln(hash, module, name, len(content))
			hash.Write(content)
		}
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}
