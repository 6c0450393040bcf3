package flags_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/k3slab/flags"
)

// noConfig keeps the machine's own /etc/rancher out of a test.
func noConfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	return "--config=" + path
}

func parse(t *testing.T, env map[string]string, args ...string) (*flags.Options, []string) {
	t.Helper()
	var warnings []string
	o, err := flags.Parse(args, func(k string) string { return env[k] }, func(w string) { warnings = append(warnings, w) })
	require.NoError(t, err)
	return o, warnings
}

func TestEverySpellingOfAFlagIsUnderstood(t *testing.T) {
	o, warnings := parse(t, nil, noConfig(t), "--cluster-init", "--node-ip", "10.0.0.1,fd00::1", "--node-name=n1", "-t", "secret",
		"--tls-san=a,b", "--tls-san", "c", "--node-label=a=b,c", "--kubelet-arg", "--v=4", "--disable-scheduler=false")
	require.Empty(t, warnings)
	require.True(t, o.Is("cluster-init"))
	require.False(t, o.Is("disable-scheduler"))
	require.Equal(t, []string{"10.0.0.1", "fd00::1"}, o.Split("node-ip"))
	require.Equal(t, "n1", o.Get("node-name", ""))
	require.Equal(t, []string{"a", "b", "c"}, o.Split("tls-san"))
	require.Equal(t, []string{"a=b,c"}, o.List("node-label"), "a label keeps its comma")
	require.Equal(t, []string{"--v=4"}, o.List("kubelet-arg"), "a value may begin with a dash")
	token, err := o.Token()
	require.NoError(t, err)
	require.Equal(t, "secret", token)
}

func TestAnUnknownFlagWarnsAndSwallowsItsValue(t *testing.T) {
	o, warnings := parse(t, nil, noConfig(t), "--frobnicate", "yes", "--node-name", "n1", "--quux=1")
	require.Len(t, warnings, 2)
	require.Contains(t, warnings[0], "--frobnicate")
	require.Equal(t, "n1", o.Get("node-name", ""))
}

func TestWrongCommandLinesAreRefusedWithoutTheirValues(t *testing.T) {
	for name, args := range map[string][]string{
		"value missing":  {"--token"},
		"stray argument": {"secret"},
		"not a boolean":  {"--cluster-init=perhaps"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := flags.Parse(append([]string{noConfig(t)}, args...), func(string) string { return "" }, func(string) {})
			require.Error(t, err)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestCommandLineBeatsConfigurationBeatsEnvironment(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(config, []byte("node-name: file\ntoken: file\nnode-label: [file=1]\nhttps-listen-port: 16443\n"), 0o600))
	env := map[string]string{"K3S_TOKEN": "env", "K3S_NODE_NAME": "env", "K3S_URL": "https://env:6443", "K3S_CONFIG_FILE": config, "K3S_AGENT_TOKEN": "agent"}

	o, _ := parse(t, env, "--node-name=line", "--node-label=line=1")
	require.Equal(t, "line", o.Get("node-name", ""))
	require.Equal(t, "file", o.Get("token", ""))
	require.Equal(t, "https://env:6443", o.Get("server", ""))
	require.Equal(t, []string{"line=1"}, o.List("node-label"), "the command line replaces a list")
	require.Equal(t, "16443", o.Get("https-listen-port", ""))
	agent, err := o.AgentToken()
	require.NoError(t, err)
	require.Equal(t, "agent", agent)
}

func TestDropInsApplyInOrderAndPlusAppends(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.Mkdir(config+".d", 0o700))
	for path, content := range map[string]string{
		config:                  "node-label: [a=1]\ntls-san: [first]\ncluster-init: true\nunheard-of: x\n",
		config + ".d/20-b.yaml": "node-label+: [c=3]\n",
		config + ".d/10-a.yml":  "node-label+: b=2\ntls-san: second\n",
		config + ".d/README":    "not YAML: [",
	} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	o, warnings := parse(t, nil, "-c", config)
	require.Equal(t, []string{"a=1", "b=2", "c=3"}, o.List("node-label"))
	require.Equal(t, []string{"second"}, o.Split("tls-san"))
	require.True(t, o.Is("cluster-init"))
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], "unheard-of")
}

func TestABadConfigurationIsNamed(t *testing.T) {
	for name, content := range map[string]string{
		"not YAML":     "a: [",
		"nested":       "node-label: {a: {b: c}}",
		"not a map":    "- a",
		"nested lists": "node-label: [[a]]",
	} {
		t.Run(name, func(t *testing.T) {
			config := filepath.Join(t.TempDir(), "config.yaml")
			require.NoError(t, os.WriteFile(config, []byte(content), 0o600))
			_, err := flags.Parse([]string{"--config", config}, func(string) string { return "" }, func(string) {})
			require.ErrorContains(t, err, config)
		})
	}
}

func TestAConfigurationAskedForMustExist(t *testing.T) {
	_, err := flags.Parse([]string{"--config", "/nonexistent/config.yaml"}, func(string) string { return "" }, func(string) {})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestATokenFileIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(path, []byte("secret\n"), 0o600))
	o, _ := parse(t, nil, noConfig(t), "--token-file", path, "--agent-token-file", "/nonexistent")
	token, err := o.Token()
	require.NoError(t, err)
	require.Equal(t, "secret", token)
	_, err = o.AgentToken()
	require.ErrorIs(t, err, os.ErrNotExist)
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("node-label: [a=1]\ntoken: x\n"))
	f.Add([]byte("a+: 1\na: 2\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		config := filepath.Join(t.TempDir(), "config.yaml")
		require.NoError(t, os.WriteFile(config, content, 0o600))
		if o, err := flags.Parse([]string{"--config", config}, func(string) string { return "" }, func(string) {}); err == nil {
			_, _ = o.List("node-label"), o.Split("tls-san")
		}
	})
}
