package muster_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Documents that say something false are worse than none. What can be compared with the code is compared here.

func TestLinksOfTheDocumentsLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)\)`)
	for _, file := range documents(t) {
		for _, match := range link.FindAllStringSubmatch(read(t, file), -1) {
			target := filepath.Join(filepath.Dir(file), match[1])
			if target == "docs/BENCHMARKS.md" {
				continue // written by make bench
			}
			_, err := os.Stat(target)
			require.NoError(t, err, "link in %s", file)
		}
	}
}

func TestEveryDirectDependencyHasItsReason(t *testing.T) {
	reasons := read(t, "docs/DEPENDENCIES.md")
	for _, f := range sourceFiles(t) {
		for _, imported := range f.imports {
			first, _, _ := strings.Cut(imported, "/")
			if !strings.Contains(first, ".") || imported == module || strings.HasPrefix(imported, module+"/") {
				continue
			}
			known := slices.ContainsFunc(prefixes(imported), func(m string) bool { return strings.Contains(reasons, "`"+m+"`") })
			require.True(t, known, "%s imports %s, and docs/DEPENDENCIES.md does not say why", f.path, imported)
		}
	}
}

func TestTheProtocolNamesWhatTheCodeSpeaks(t *testing.T) {
	protocol := read(t, "docs/PROTOCOL.md")
	spoken := regexp.MustCompile(`"(/muster/[a-z-]+/[0-9]+)`)
	signed := regexp.MustCompile(`= "(muster (?:fact|genesis|propose|enrol)[a-z0-9 ]*)"`)
	keys := regexp.MustCompile(`(?m)^\t(?:Key|Prefix)[A-Z][A-Za-z]* += "([a-z]+/?)"`)
	seen := 0
	for _, f := range sourceFiles(t) {
		if f.test || !strings.HasPrefix(f.folder, "p2p") {
			continue
		}
		text := read(t, f.path)
		for _, pattern := range []*regexp.Regexp{spoken, signed, keys} {
			for _, match := range pattern.FindAllStringSubmatch(text, -1) {
				seen++
				require.Contains(t, protocol, "`"+match[1], "%s, in %s", match[1], f.path)
			}
		}
	}
	require.Greater(t, seen, 20)
}

func TestTheProtocolsVectorsAndFuzzTargetsExist(t *testing.T) {
	protocol := read(t, "docs/PROTOCOL.md")
	for _, match := range regexp.MustCompile("`((?:p2p|node|roles)/[^`]*)`").FindAllStringSubmatch(protocol, -1) {
		found, err := filepath.Glob(match[1])
		require.NoError(t, err)
		require.NotEmpty(t, found, "%s is named by docs/PROTOCOL.md", match[1])
	}
	var tests strings.Builder
	for _, f := range sourceFiles(t) {
		if f.test {
			tests.WriteString(read(t, f.path))
		}
	}
	for _, target := range regexp.MustCompile("`(Fuzz[A-Za-z]+)`").FindAllStringSubmatch(protocol, -1) {
		require.Contains(t, tests.String(), "func "+target[1]+"(")
	}
}

func documents(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	return append(files, "README.md")
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

// prefixes returns an import path and all that it may be a package of.
func prefixes(imported string) []string {
	all := []string{imported}
	for {
		i := strings.LastIndexByte(imported, '/')
		if i < 0 {
			return all
		}
		imported = imported[:i]
		all = append(all, imported)
	}
}
