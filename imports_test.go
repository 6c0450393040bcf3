package muster_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/muster-edge/muster"

// mayImport says which of our own packages each package may import, its tests included (DESIGN §4). A package that is not
// listed fails the test: whoever adds one decides here what it may know.
var mayImport = map[string][]string{
	".": {},
	// p2p for tokens, roles for the policy's type; upgrade because a disk is upgraded and reset without an agent too
	"cmd/muster":      {"node", "node/config", "deploy", "e2e/lab", "p2p", "roles", "upgrade", "upgrade/boot", "upgrade/image"},
	"cmd/muster-init": {"upgrade/boot"},

	"p2p":        {},
	"p2p/ledger": {"p2p"},
	"roles":      {},
	"vpn":        {"p2p"},

	"node":        {"roles", "vpn", "upgrade", "upgrade/rollout", "p2p", "p2p/ledger", "node/config", "node/k3s", "node/vip"},
	"node/config": {"p2p"}, // WriteFile
	"node/k3s":    {"p2p"}, // WriteFile and Notifier
	"node/vip":    {},

	"upgrade":         {"upgrade/image", "upgrade/grub"},
	"upgrade/image":   {},
	"upgrade/grub":    {},
	"upgrade/boot":    {},
	"upgrade/rollout": {},
	"deploy":          {"upgrade", "upgrade/image", "upgrade/grub"},
	"deploy/os":       {}, // scripts; its test looks at what they make

	"e2e/lab":         {"p2p"}, // WriteFile
	"e2e/scenario":    {"e2e/lab"},
	"e2e/section":     {},
	"e2e/sim":         {"roles", "p2p", "p2p/ledger", "e2e/section"},
	"e2e/soak":        {"e2e/lab"},
	"e2e/soak/run":    {"e2e/soak"},
	"e2e/long":        {"e2e/lab", "e2e/section"},
	"e2e/systemd":     {"node/k3s"},
	"e2e/vm":          {},
	"e2e/vm/scenario": {"e2e/section", "e2e/vm", "upgrade", "upgrade/grub", "upgrade/image"}, // to cut an upgrade at its steps
}

// planners decide and do nothing else: no I/O, no clock, no goroutine, no randomness.
var planners = []string{"roles", "upgrade/rollout"}

// plannersMayImport are the packages of the standard library that cannot do what a planner must not.
var plannersMayImport = []string{
	"bytes", "cmp", "encoding/binary", "encoding/hex", "encoding/json", "errors", "fmt", "iter", "log/slog", "maps", "math",
	"net/netip", "reflect", "regexp", "slices", "sort", "strconv", "strings", "time", "unicode", "unicode/utf8",
}

// mainMayImport are the modules that a main package may use itself; what needs others is logic and belongs below.
var mainMayImport = []string{"github.com/spf13/cobra", "golang.org/x/sys", "github.com/coreos/go-systemd/v22/daemon"}

func TestImportsRunOneWay(t *testing.T) {
	for _, f := range sourceFiles(t) {
		allowed, listed := mayImport[f.folder]
		if !listed {
			t.Errorf("%s: package %s is not in mayImport: say there what it may know", f.path, f.folder)
			continue
		}
		for _, imported := range f.imports {
			ours, ok := strings.CutPrefix(imported, module+"/")
			if ok && ours != f.folder && !slices.Contains(allowed, ours) {
				t.Errorf("%s: package %s must not import %s", f.path, f.folder, ours)
			}
		}
	}
}

func TestPlannersArePure(t *testing.T) {
	for _, f := range sourceFiles(t) {
		if !slices.Contains(planners, f.folder) || f.test {
			continue
		}
		for _, imported := range f.imports {
			if !slices.Contains(plannersMayImport, imported) {
				t.Errorf("%s: a planner must not import %s", f.path, imported)
			}
		}
		ast.Inspect(f.parse(t), func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: a planner starts no goroutine", f.path)
			case *ast.SelectorExpr:
				if pkg, ok := n.X.(*ast.Ident); ok && pkg.Name == "time" && slices.Contains(clock, n.Sel.Name) {
					t.Errorf("%s: a planner has no clock: time.%s", f.path, n.Sel.Name)
				}
			}
			return true
		})
	}
}

// clock is what of package time looks at a clock or waits for one.
var clock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

func TestMainPackagesHoldNoLogic(t *testing.T) {
	for _, f := range sourceFiles(t) {
		if !strings.HasPrefix(f.folder, "cmd/") || f.test {
			continue
		}
		for _, imported := range f.imports {
			first, _, _ := strings.Cut(imported, "/")
			standard := !strings.Contains(first, ".")
			known := slices.ContainsFunc(append(mainMayImport, module), func(m string) bool {
				return imported == m || strings.HasPrefix(imported, m+"/")
			})
			if !standard && !known {
				t.Errorf("%s: a main package must not import %s", f.path, imported)
			}
		}
	}
}

// sourceFile is a Go file of this module, as far as its imports say.
type sourceFile struct {
	path    string // below the root, with slashes
	folder  string
	test    bool
	imports []string
}

func (f sourceFile) parse(t *testing.T) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(f.path), nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	return file
}

// sourceFiles returns all Go files of this module; modules of their own below it are left out.
func sourceFiles(t *testing.T) []sourceFile {
	t.Helper()
	var all []sourceFile
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && skipped(name, d.Name()):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		f := sourceFile{path: filepath.ToSlash(name), test: strings.HasSuffix(name, "_test.go")}
		f.folder = path.Dir(f.path)
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, imported)
		}
		all = append(all, f)
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, all)
	return all
}

func skipped(name, base string) bool {
	if strings.HasPrefix(base, ".") || base == "testdata" {
		return true
	}
	own, err := filepath.Glob(filepath.Join(name, "go.mod"))
	return err == nil && len(own) > 0
}
