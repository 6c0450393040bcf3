package scenario

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whoever flashes a machine hears of a mistake before, and in the same words from
// the agent: the place, at most four lines, exit code 2, nothing written.
func TestWrongConfigurationIsRefusedByName(t *testing.T) {
	t.Parallel()
	token := newConfig(t).Token
	for name, c := range map[string]struct {
		file string
		want []string
	}{
		"empty":                {"", []string{"empty", "#cloud-config"}},
		"header alone":         {"#cloud-config\n", []string{"nothing else"}},
		"no header":            {"p2p:\n  network_token: TOKEN\n", []string{":1:1:", "#cloud-config"}},
		"not YAML":             {"#cloud-config\np2p: [\n", []string{":2: not valid YAML"}},
		"a list":               {"#cloud-config\n- p2p\n", []string{":2:1:", "list"}},
		"binary":               {"\x7fELF\x02\x01\x01\x00", []string{"config.yaml"}},
		"unknown key":          {"#cloud-config\np2p:\n  network_tokn: TOKEN\n", []string{":3:3:", "network_token"}},
		"wrong type":           {"#cloud-config\np2p:\n  network_token: TOKEN\n  minimum_nodes: many\n", []string{":4:18:", "minimum_nodes"}},
		"impossible value":     {"#cloud-config\np2p:\n  network_token: TOKEN\n  minimum_nodes: -1\n", []string{":4:18:", "minimum_nodes"}},
		"even masters":         {"#cloud-config\np2p:\n  network_token: TOKEN\n  auto: {ha: {enable: true, master_nodes: 1}}\n", []string{":4:", "master_nodes"}},
		"unknown role":         {"#cloud-config\np2p:\n  network_token: TOKEN\n  role: boss\n", []string{":4:9:", "role"}},
		"reserved flag":        {"#cloud-config\np2p:\n  network_token: TOKEN\nk3s:\n  args: [--cluster-init]\n", []string{":5:", "cluster-init"}},
		"url without sum":      {"#cloud-config\np2p:\n  network_token: TOKEN\nk3s:\n  url: http://h/k3s\n", []string{":5:", "sha256"}},
		"VPN used, not made":   {"#cloud-config\np2p:\n  network_token: TOKEN\n  vpn: {create: false, use: true}\n", []string{":4:", "vpn"}},
		"key twice":            {"#cloud-config\np2p:\n  network_token: TOKEN\n  dns: true\n  dns: false\n", []string{":5:", "dns"}},
		"seven mistakes":       {"#cloud-config\np2p: {a: 1, b: 2, c: 3, d: 4, e: 5, f: 6, g: 7}\n", []string{":2:7:", "more"}},
		"token cut short":      {"#cloud-config\np2p:\n  network_token: " + token[:40] + "\n", []string{":3:18:", "network_token"}},
		"token with a slip":    {"#cloud-config\np2p:\n  network_token: " + slip(token) + "\n", []string{":3:18:", "checksum"}},
		"token of another age": {"#cloud-config\np2p:\n  network_token: muster9-abcdef\n", []string{":3:18:", "network_token"}},
		"EdgeVPN token, cut":   {"#cloud-config\np2p:\n  network_token: " + edgeVPNToken()[:120] + "\n", []string{":3:18:", "EdgeVPN"}},
		"token is a word":      {"#cloud-config\np2p:\n  network_token: secret\n", []string{":3:18:", "network_token"}},
		"token is empty":       {"#cloud-config\np2p:\n  network_token: \"\"\n", []string{":3:18:", "network_token"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "config.yaml")
			require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(c.file, "TOKEN", token)), 0o600))
			secrets := map[string]string{"network token": token}

			answer := refusedBy(t, dir, "", "config", "validate", file)
			for _, want := range c.want {
				require.Contains(t, answer, want)
			}
			requireNoPart(t, secrets, "the refusal", answer)
			agent := refusedBy(t, dir, "", "agent", "--config", file, "--state-dir", filepath.Join(dir, "state"), "--run-dir", filepath.Join(dir, "run"))
			require.Equal(t, answer, agent, "agent and validate say the same")
		})
	}
}

func TestWrongTokenIsRefusedByPart(t *testing.T) {
	t.Parallel()
	token := newConfig(t).Token
	for name, c := range map[string]struct{ token, want string }{
		"nothing":      {"", "empty"},
		"a word":       {"secret", "prefix"},
		"cut short":    {token[:len(token)-5], "network token"},
		"one slip":     {slip(token), "checksum"},
		"too long":     {strings.Repeat(token, 200), "network token"},
		"EdgeVPN, cut": {edgeVPNToken()[:120], "EdgeVPN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := refusedBy(t, t.TempDir(), c.token+"\n", "token", "check")
			require.Contains(t, answer, c.want)
			requireNoPart(t, map[string]string{"network token": token}, "the refusal", answer)
		})
	}
}

func TestWrongUsageIsRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"agnet"},
		{"nodes", "-o", "xml"},
		{"nodes", "extra"},
		{"status", "--no-such-flag"},
		{"dns", "set", "foo.bar"},
		{"dns", "sett"},
		{"policy", "set", "replace_after"},
		{"config", "validate"},
		{"config", "validate", "/no/such/file"},
		{"ledger", "get", "a", "b"},
		{"agent", "--port", "many"},
		{"token", "generate", "--bootstrap", "nowhere"},
		{"lab", "up", "--nodes", "0"},
		{"lab", "up", "--nodes", "1", "--config", "/no/such/file"},
		{"lab", "up", "--until", "perfect"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			refusedBy(t, t.TempDir(), "", args...)
		})
	}
}

// refusedBy runs muster on the host, which must end with exit code 2, say why in
// one to four lines, and leave dir, its working and home directory, as it was.
func refusedBy(t *testing.T, dir, stdin string, args ...string) string {
	t.Helper()
	before := contents(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), soonTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, binaries.muster, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	require.True(t, errors.As(err, &exit), "muster %q: %v, want exit code 2", args, err)
	require.Equal(t, 2, exit.ExitCode(), "exit code of muster %q: %s", args, errOut.String())
	require.Empty(t, out.String(), "mistakes belong on standard error")
	lines := strings.Count(errOut.String(), "\n")
	require.GreaterOrEqual(t, lines, 1)
	require.LessOrEqual(t, lines, 4, "%s", errOut.String())
	require.Equal(t, before, contents(t, dir), "muster %q wrote something", args)
	return errOut.String()
}

// contents is every file below dir, by name.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			files[path] = "directory"
			return err
		}
		raw, err := os.ReadFile(path)
		files[path] = string(raw)
		return err
	})
	require.NoError(t, err)
	return files
}

// slip is token with one character in its middle mistyped.
func slip(token string) string {
	i := len(token) / 2
	other := byte('a')
	if token[i] == other {
		other = 'b'
	}
	return token[:i] + string(other) + token[i+1:]
}
