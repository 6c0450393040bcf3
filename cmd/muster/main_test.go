package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/node/config"
)

type result struct {
	code             int
	stdout, complain string
}

// muster runs the command line.
func muster(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	root := newRootCommand()
	var stdout, stderr bytes.Buffer
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetArgs(args)
	code := finish(root.ExecuteContext(t.Context()), &stderr)
	return result{code, stdout.String(), stderr.String()}
}

func token(t *testing.T) string {
	t.Helper()
	r := muster(t, "", "token", "generate")
	require.Equal(t, node.ExitDone, r.code)
	return strings.TrimSpace(r.stdout)
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestWrongUsageEndsWithTwoAndSaysWhereToLook(t *testing.T) {
	for args, want := range map[string]string{
		"nod":                          "did you mean `muster node`?",
		"frobnicate":                   "see `muster --help`",
		"token make":                   "see `muster token --help`",
		"ledger frob":                  "see `muster ledger --help`",
		"status --nope":                "see `muster status --help`",
		"status now":                   "see `muster status --help`",
		"nodes -o yaml":                "use text or json",
		"policy set":                   "see `muster policy set --help`",
		"policy set replace_after":     "is not KEY=VALUE",
		"policy set =30m":              "is not KEY=VALUE",
		"dns set name":                 "see `muster dns set --help`",
		"ledger get a b":               "see `muster ledger get --help`",
		"config validate":              "see `muster config validate --help`",
		"config validate /nowhere":     "no such file",
		"config show --config /none":   "no such file",
		"agent --config /nowhere":      "no such file",
		"token generate --bootstrap x": "bootstrap address 1",
		"token check muster1-secret":   "read from standard input",
	} {
		t.Run(args, func(t *testing.T) {
			r := muster(t, "", strings.Fields(args)...)
			require.Equal(t, node.ExitUsage, r.code)
			require.Contains(t, r.complain, want)
			require.Equal(t, 1, strings.Count(r.complain, "\n"), "one line: %s", r.complain)
			require.NotContains(t, r.complain, "secret")
			require.Empty(t, r.stdout)
		})
	}
}

func TestWithoutAnAgentEveryQuestionFailsWithOne(t *testing.T) {
	dir := t.TempDir()
	for _, args := range []string{
		"status", "why", "nodes", "roles", "events", "kubeconfig", "policy show", "policy set replace_after=1m", "dns list", "dns set a.b 10.1.0.1",
		"dns rm a.b", "ledger get",
	} {
		t.Run(args, func(t *testing.T) {
			r := muster(t, "", append(strings.Fields(args), "--run-dir", dir)...)
			require.Equal(t, node.ExitFailed, r.code)
			require.Contains(t, r.complain, "is `muster agent` running on this machine?")
			require.Empty(t, r.stdout)
		})
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if !c.Hidden {
			require.NotEmpty(t, c.Short, c.CommandPath())
			require.False(t, strings.HasSuffix(c.Short, "."), "%s: %q", c.CommandPath(), c.Short)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	root := newRootCommand()
	walk(root)
	for _, args := range [][]string{nil, {"--help"}, {"token"}, {"dns", "--help"}, {"help", "config", "validate"}} {
		r := muster(t, "", args...)
		require.Equal(t, node.ExitDone, r.code, args)
		require.Contains(t, r.stdout, "Usage:")
	}
}

func TestATokenIsPrintedOnceAndChecked(t *testing.T) {
	text := token(t)
	require.Equal(t, node.ExitDone, muster(t, text+"\n", "token", "check").code)
	r := muster(t, text[:len(text)-3], "token", "check")
	require.Equal(t, node.ExitUsage, r.code)
	require.NotContains(t, r.complain, text[10:30], "an error never shows the token")
	require.Equal(t, node.ExitUsage, muster(t, "", "token", "check").code)
}

func TestConfigValidate(t *testing.T) {
	good := "#cloud-config\np2p:\n  network_token: " + token(t) + "\n"
	r := muster(t, good, "config", "validate", "-")
	require.Equal(t, node.ExitDone, r.code, r.complain)
	require.Equal(t, "standard input: valid\n", r.stdout)
	require.Equal(t, node.ExitDone, muster(t, "", "config", "validate", write(t, good), write(t, good)).code)

	for name, text := range map[string]string{
		"no header":         "p2p: {}\n",
		"empty":             "",
		"a wrong type":      "#cloud-config\np2p:\n  minimum_nodes: many\n",
		"an unknown key":    "#cloud-config\np2p:\n  network_tokn: x\n",
		"impossible":        "#cloud-config\np2p:\n  minimum_nodes: 0\n",
		"a malformed token": "#cloud-config\np2p:\n  network_token: muster1-x\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, text)
			r := muster(t, "", "config", "validate", path)
			require.Equal(t, node.ExitUsage, r.code)
			require.Empty(t, r.stdout)
			require.Contains(t, r.complain, path)
			require.LessOrEqual(t, strings.Count(r.complain, "\n"), 4)
		})
	}
}

func TestConfigShowHidesSecrets(t *testing.T) {
	text := token(t)
	r := muster(t, "", "config", "show", "--config", write(t, "#cloud-config\np2p:\n  network_token: "+text+"\n"))
	require.Equal(t, node.ExitDone, r.code)
	require.NotContains(t, r.stdout, text)
	require.Contains(t, r.stdout, "network_token: redacted")
}

func TestConfigSchemaAndDocument(t *testing.T) {
	r := muster(t, "", "config", "schema")
	require.Equal(t, node.ExitDone, r.code)
	require.True(t, json.Valid([]byte(r.stdout)))
	var want bytes.Buffer
	require.NoError(t, config.Document(&want))
	require.Equal(t, want.String(), muster(t, "", "config", "document").stdout)
}

func TestAnAgentWithoutATokenSaysSoAndTouchesNothing(t *testing.T) {
	dir := t.TempDir()
	state, run := filepath.Join(dir, "state"), filepath.Join(dir, "run")
	for name, text := range map[string]string{
		"no token":      "#cloud-config\nhostname: box\n",
		"a cut token":   "#cloud-config\np2p:\n  network_token: " + token(t)[:40] + "\n",
		"a wrong value": "#cloud-config\np2p:\n  minimum_nodes: -1\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := muster(t, "", "agent", "--config", write(t, text), "--state-dir", state, "--run-dir", run)
			require.Equal(t, node.ExitUsage, r.code)
			require.Contains(t, r.complain, "muster: ")
			require.NoDirExists(t, state)
			require.NoDirExists(t, run)
		})
	}
}

func TestShellsComplete(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		r := muster(t, "", "completion", shell)
		require.Equal(t, node.ExitDone, r.code)
		require.Contains(t, r.stdout, "muster")
	}
	require.Contains(t, muster(t, "", "__complete", "dns", "").stdout, "list\t")
	require.Contains(t, muster(t, "", "__complete", "nodes", "-o", "").stdout, "json\n")
	require.Contains(t, muster(t, "", "__complete", "").stdout, "why\t")
}

func TestPolicyFieldsAreJSONOrText(t *testing.T) {
	fields, err := policyFields([]string{"replace_after=30m", "dynamic_roles=true", "minimum_nodes=3", "x=a=b"})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"replace_after": "30m", "dynamic_roles": true, "minimum_nodes": 3.0, "x": "a=b"}, fields)
}
