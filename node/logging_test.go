package node

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// constants are the field names that the code spells as constants.
var constants = map[string]string{
	"LogNode": LogNode, "LogPeer": LogPeer, "LogSite": LogSite, "LogPhase": LogPhase, "LogReason": LogReason, "LogError": LogError,
	"LogAddress": LogAddress, "LogImage": LogImage, "LogEpoch": LogEpoch,
}

// TestEveryLogFieldIsInTheDictionary reads the calls of every package that logs.
func TestEveryLogFieldIsInTheDictionary(t *testing.T) {
	used := map[string]string{}
	for _, root := range []string{"p2p", "roles", "vpn", "node", "upgrade", "deploy", "cmd"} {
		err := filepath.WalkDir(filepath.Join("..", root), func(path string, _ fs.DirEntry, err error) error {
			if os.IsNotExist(err) || err == nil && (!strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go")) {
				return nil
			}
			if err != nil {
				return err
			}
			return logFields(path, used)
		})
		require.NoError(t, err)
	}
	require.Greater(t, len(used), 10, "the calls are found")

	text, err := os.ReadFile("../docs/LOGGING.md")
	require.NoError(t, err)
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		listed = append(listed, row[1])
	}
	require.True(t, slices.IsSorted(listed), "docs/LOGGING.md is in alphabetical order")
	for _, name := range slices.Sorted(maps.Keys(used)) {
		assert.Contains(t, listed, name, "docs/LOGGING.md lacks a field that %s logs", used[name])
	}
	for _, name := range listed {
		require.Contains(t, used, name, "docs/LOGGING.md lists a field that nobody logs")
	}
}

// logFields adds the field names of every call like log.Info("text", "name",
// value) and log.With("name", value).
func logFields(path string, used map[string]string) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		selector, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !logger(selector.X) {
			return true
		}
		first := map[string]int{"Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "With": 0, "Log": 3}
		from, known := first[selector.Sel.Name]
		if !known {
			return true
		}
		for i := from; i+1 < len(call.Args); i += 2 {
			switch arg := call.Args[i].(type) {
			case *ast.BasicLit:
				if name, err := strconv.Unquote(arg.Value); err == nil {
					used[name] = path
				}
			case *ast.Ident:
				if name, known := constants[arg.Name]; known {
					used[name] = path
				}
			}
		}
		return true
	})
	return nil
}

// logger tells by its name whether an expression is a *slog.Logger.
func logger(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return strings.Contains(strings.ToLower(x.Name), "log")
	case *ast.SelectorExpr:
		return strings.Contains(strings.ToLower(x.Sel.Name), "log")
	}
	return false
}
