package muster_test

import (
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryComplaintHasAnAnswerThatExists reads docs/COMPLAINTS.md: no number is missing, every test that it names is there,
// and every link leads somewhere.
func TestEveryComplaintHasAnAnswerThatExists(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("docs", "COMPLAINTS.md"))
	require.NoError(t, err)
	text := string(raw)
	for _, span := range [][2]int{{18, 38}, {43, 46}} {
		for n := span[0]; n <= span[1]; n++ {
			require.Contains(t, text, fmt.Sprintf("\n| %d | ", n), "complaint %d", n)
		}
	}
	tests := map[string]bool{}
	for _, f := range sourceFiles(t) {
		if f.test {
			for _, d := range f.parse(t).Decls {
				if fn, ok := d.(*ast.FuncDecl); ok {
					tests[fn.Name.Name] = true
				}
			}
		}
	}
	for _, name := range regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(text, -1) {
		require.Contains(t, tests, name[1])
	}
	for _, link := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(text, -1) {
		_, err := os.Stat(filepath.Join("docs", filepath.FromSlash(link[1])))
		require.NoError(t, err)
	}
}
