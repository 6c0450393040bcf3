// Package suite runs the measurements of one call of the benchmark and writes what they found.
package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/muster-edge/muster/e2e/bench/idle"
	"github.com/muster-edge/muster/e2e/bench/lan"
	"github.com/muster-edge/muster/e2e/bench/peer"
	"github.com/muster-edge/muster/e2e/bench/report"
	"github.com/muster-edge/muster/e2e/bench/throughput"
)

// Config says what is measured.
type Config struct {
	Muster string // path of the muster binary
	Peers  string // folder of the peers' modules
	Cache  string // where built peers are kept
	Out    string // document that the tables are written into
	Commit string // of the repository, for the record; empty if unknown
	Repeat string // command that repeats the run, for the record

	Measurements []string // out of Measurements
	Contestants  []string // out of Contestants
	Nodes        []int    // sizes of Muster's sites, for convergence
	EdgeVPNNodes []int    // sizes of EdgeVPN's sites, for convergence
	IdleNodes    int      // size of the idle site
	Idle         idle.Options
	Throughput   throughput.Options

	Output io.Writer // tables and bars
	Log    io.Writer // progress
}

// Measurements are the names of what can be measured, in the order in which it is.
var Measurements = []string{"throughput", "convergence", "idle"}

// Contestants are the names of the peers, in the order in which they are measured: Muster right after wireguard-go, so that
// the closest race is run under the same load.
var Contestants = []string{"veth", "edgevpn", "nebula", "wireguard-go", "muster"}

// ErrIncomplete says that something could not be measured.
var ErrIncomplete = errors.New("not everything could be measured")

// Run measures, writes the tables to Output and into the document, and ends with a line that names the bars that were
// missed. It returns ErrIncomplete, after writing what there is, if something could not be measured; and ctx's error,
// writing nothing, if it was called off.
func Run(ctx context.Context, config Config) (err error) {
	s := &session{Config: config, machine: report.Machine()}
	if err := s.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()

	var sections []section
	if s.measures("throughput") {
		sections = append(sections, s.throughput(ctx))
	}
	if s.measures("convergence") || s.measures("idle") {
		sections = append(sections, s.sites(ctx)...)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("benchmark called off: %w", context.Cause(ctx))
	}
	return s.publish(sections)
}

// session is one run.
type session struct {
	Config
	machine  string
	versions map[string]string
	binaries peer.Binaries
	work     string // folder of this run, named so that sweep knows whose it is
	failures []error
}

func (s *session) open(ctx context.Context) (err error) {
	if err := errors.Join(lan.Sweep(), s.sweep()); err != nil {
		return err
	}
	if s.versions, err = peer.Versions(s.Peers); err != nil {
		return err
	}
	if s.binaries, err = peer.Build(ctx, s.Peers, s.Cache, s.progress); err != nil {
		return err
	}
	if s.work, err = os.MkdirTemp("", lan.Name("")); err != nil {
		return fmt.Errorf("make folder of the run: %w", err)
	}
	return nil
}

// close removes the run's folder, unless a lab is left in it that could not be taken down.
func (s *session) close() error {
	if _, err := os.Stat(filepath.Join(s.work, "muster", "lab")); err == nil {
		return fmt.Errorf("a lab is left in %s: it is taken down by the next run", s.work)
	}
	return os.RemoveAll(s.work)
}

// sweep cleans up after drivers that were killed: their labs and folders.
func (s *session) sweep() error {
	entries, err := os.ReadDir(os.TempDir())
	if err != nil {
		return fmt.Errorf("sweep leftovers of killed runs: %w", err)
	}
	var failures []error
	for _, entry := range entries {
		owner, ok := lan.Owner(entry.Name())
		if !ok || !entry.IsDir() || lan.Alive(owner) {
			continue
		}
		work := filepath.Join(os.TempDir(), entry.Name())
		if err := peer.Down(s.Muster, filepath.Join(work, "muster")); err != nil {
			failures = append(failures, err)
			continue
		}
		failures = append(failures, os.RemoveAll(work))
	}
	return errors.Join(failures...)
}

func (s *session) measures(name string) bool { return slices.Contains(s.Measurements, name) }

func (s *session) contests(name string) bool { return slices.Contains(s.Contestants, name) }

func (s *session) progress(format string, args ...any) {
	fmt.Fprintf(s.Log, "bench: %s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// failed records why something could not be measured.
func (s *session) failed(err error) {
	s.progress("NOT MEASURED: %v", err)
	s.failures = append(s.failures, err)
}

// contestant returns a peer that was not started yet. dhcp is whether EdgeVPN's nodes agree on their addresses.
func (s *session) contestant(name string, dhcp bool) peer.Peer {
	dir := filepath.Join(s.work, name)
	switch name {
	case "veth":
		return peer.NewVeth(dir)
	case "wireguard-go":
		return peer.NewWireGuard(s.binaries.Path("wireguard"), dir)
	case "nebula":
		return peer.NewNebula(s.binaries.Path("nebula"), s.binaries.Path("nebula-cert"), dir)
	case "edgevpn":
		return peer.NewEdgeVPN(s.binaries.Path("edgevpn"), dir, dhcp)
	default:
		return peer.NewMuster(s.Muster, dir)
	}
}

func (s *session) version(name string) string {
	if name == "muster" {
		return s.Commit
	}
	return short(s.versions[strings.TrimSuffix(name, "-go")])
}

// short keeps the commit of a Go pseudo-version (v0.0.0-TIME-COMMIT) and leaves any other version as it is.
func short(version string) string {
	if parts := strings.Split(version, "-"); len(parts) == 3 {
		return parts[2]
	}
	return version
}
