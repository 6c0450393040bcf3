package k3s

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestReservedArgumentsAreRefused(t *testing.T) {
	for name := range reservedFlags {
		for _, args := range [][]string{
			{dashes(name) + "=" + testServerToken},
			{dashes(name), testServerToken},
			{dashes(name) + " " + testServerToken},
			{"--disable traefik " + dashes(name)},
			{"-" + name},
			{`"` + dashes(name) + `" x`},
		} {
			err := with(worker(), func(s *Spec) { s.Args = args }).Validate()
			require.ErrorIs(t, err, ErrReserved, "%q", args)
			require.ErrorContains(t, err, dashes(name))
			requireNoSecrets(t, err.Error())
		}
	}
}

func TestReservedVariablesAreRefused(t *testing.T) {
	for name := range reservedEnv {
		err := with(worker(), func(s *Spec) { s.Env = map[string]string{name: testServerToken} }).Validate()
		require.ErrorIs(t, err, ErrReserved, name)
		requireNoSecrets(t, err.Error())
	}
}

func TestOtherArgumentsAreSplitAsKairosDoes(t *testing.T) {
	spec := with(worker(), func(s *Spec) {
		s.Args = []string{"--disable=traefik", "--disable servicelb", `--node-label "a=b c"`, "--node-label", "token=x", "--kubelet-arg='v=2'", "", " "}
	})
	require.NoError(t, spec.Validate(), "a value may be called like a flag")
	args, err := spec.argv()
	require.NoError(t, err)
	require.Equal(t, []string{
		"--disable=traefik", "--disable", "servicelb", "--node-label", "a=b c", "--node-label", "token=x", "--kubelet-arg=v=2",
	}, args)
}

func TestQuotedWordsComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOf(rapid.StringMatching(`[^'\n\r\x00]*`)).Draw(t, "words")
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, "'"+w+"'")
		}
		got, err := splitWords(strings.Join(quoted, " "))
		require.NoError(t, err)
		require.ElementsMatch(t, words, got)
	})
}

func FuzzSplitWords(f *testing.F) {
	f.Add(`--disable traefik "a b" 'c'`)
	f.Fuzz(func(t *testing.T, line string) {
		words, err := splitWords(line)
		if err != nil {
			require.Nil(t, words)
			return
		}
		for _, w := range words {
			require.NotContains(t, w, "\n")
		}
	})
}

func TestFilesBesideOursMayNotDecideForTheSite(t *testing.T) {
	for name, c := range map[string]struct{ path, text, says string }{
		"main file":   {mainConfig, "server: https://other:6443\n", "server in " + mainConfig},
		"later file":  {configDir + "/90-x.yaml", "disable: [traefik]\ntoken: " + testServerToken + "\n", "token in " + configDir + "/90-x.yaml"},
		"short name":  {configDir + "/10-x.yml", "t: x\n", "t in"},
		"appending":   {configDir + "/90-x.yaml", "node-ip+: 10.0.0.1\n", "node-ip in"},
		"no mapping":  {mainConfig, "- " + testServerToken + "\n", "not a YAML mapping"},
		"no YAML":     {mainConfig, "a: [" + testServerToken, "not a YAML mapping"},
		"much of it":  {mainConfig, "a: " + strings.Repeat("x", maxForeignConfig), "more than"},
		"a directory": {mainConfig + "/x", "", "is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.write(c.path, c.text)
			err := checkForeign(m.root)
			require.ErrorContains(t, err, c.says)
			requireNoSecrets(t, err.Error())

			require.EqualError(t, m.driver(fast).Apply(t.Context(), initMaster()), err.Error())
			require.Empty(t, m.starts())
			require.NoFileExists(t, m.path(configFile))
		})
	}
}

func TestFilesBesideOursMaySayTheRest(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, checkForeign(root), "none at all")
	require.NoError(t, os.MkdirAll(root+configDir, 0o755))
	for path, text := range map[string]string{
		mainConfig: "disable: [traefik]\nwrite-kubeconfig-mode: '0644'\n", configFile: "server: ours\n",
		configDir + "/90-x.yaml": "node-label+: [a=b]\n", configDir + "/notes.txt": "server: no\n", configDir + "/empty.yaml": "",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(root, path), []byte(text), 0o600))
	}
	require.NoError(t, checkForeign(root))
}
