package scenario

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// binaries are what the tests drive.
var binaries struct {
	muster string
	k3s    string
}

func TestMain(m *testing.M) {
	if err := findBinaries(); err != nil {
		fmt.Fprintln(os.Stderr, "scenario:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// findBinaries takes the binaries from MUSTER_BIN and K3S_BIN and says on
// standard output which K3s the tests run on.
func findBinaries() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("namespaces need root")
	}
	muster := os.Getenv("MUSTER_BIN")
	if muster == "" {
		muster = filepath.Join("..", "..", "bin", "muster")
	}
	if _, err := os.Stat(muster); err != nil {
		return fmt.Errorf("no muster binary (%w): `make build`, or set MUSTER_BIN", err)
	}
	k3s := os.Getenv("K3S_BIN")
	if k3s == "" {
		return fmt.Errorf("no k3s binary: set K3S_BIN, to a real one or to the stand-in: K3S_BIN=$(e2e/k3slab/build)")
	}
	version, err := exec.Command(k3s, "--version").Output()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", k3s, err)
	}
	line, _, _ := strings.Cut(string(version), "\n")
	kind := "a real K3s"
	if strings.Contains(line, "k3slab") {
		kind = "the stand-in for K3s"
	}
	fmt.Printf("scenario: on %s: %s\n", kind, line)
	if binaries.muster, err = filepath.Abs(muster); err != nil {
		return err
	}
	binaries.k3s, err = filepath.Abs(k3s)
	return err
}
